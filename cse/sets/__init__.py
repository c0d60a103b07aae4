"""Sets of texts as meanings: ranked by what they share with other sets, and by what sets them apart.

from cse import Encoder
from cse.sets import ranked

model = Encoder.load("runs/mine/best")
found = ranked(reviews, like=[["It broke.", "It fell apart."]], unlike=[["Great value."]], encoder=model)
[reviews[i] for i in found.order[:10]]
"""

from cse.sets.operations import Ranked, difference, intersection, ranked

__all__ = ["Ranked", "difference", "intersection", "ranked"]
