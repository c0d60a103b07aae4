"""The names that the package exports: the one list, which type checkers and `cse.errors.on_demand` read."""

from cse.data.both_ways import BothWays as BothWays
from cse.data.collators import AugmentedViews as AugmentedViews
from cse.data.collators import TextViews as TextViews
from cse.data.datasets import Dataset as Dataset
from cse.data.datasets import Pairs as Pairs
from cse.data.datasets import ScoredPairs as ScoredPairs
from cse.data.datasets import Texts as Texts
from cse.data.datasets import Triplets as Triplets
from cse.data.documents import Documents as Documents
from cse.data.halves import Halves as Halves
from cse.data.masked import Masked as Masked
from cse.data.mixture import Mixture as Mixture
from cse.data.mixture import Source as Source
from cse.data.nested import NestedViews as NestedViews
from cse.data.samplers import ClusterBatches as ClusterBatches
from cse.data.samplers import LabelBatches as LabelBatches
from cse.data.samplers import NegativesAsRows as NegativesAsRows
from cse.data.samplers import NoDuplicates as NoDuplicates
from cse.data.templates import InTemplates as InTemplates
from cse.data.tools.curation import curate as curate
from cse.data.tools.deduplication import dedup as dedup
from cse.data.tools.mixing import mix as mix
from cse.data.tools.opening import open_rows as open_rows
from cse.data.tools.splitting import split as split
from cse.data.tools.statistics import stats as stats
