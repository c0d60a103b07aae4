"""What an objective needs, a run gives it or is refused, by name and before anything is written."""

import pytest
import torch

from cse.batch import LossOutput
from cse.data.datasets import Texts
from cse.data.views.texts import TextViews
from cse.encoder.dropout import Dropout
from cse.encoder.model import Encoder
from cse.errors import UserError
from cse.interfaces import Objective
from cse.objectives.cosent import CoSENT
from cse.objectives.dcl import DCL
from cse.objectives.supclseq import SupCLSeq
from cse.objectives.supcon import SupCon
from cse.teachers.frozen import FrozenEncoder
from cse.training.trainer import Trainer
from tests.models import save_tiny
from tests.runs import make_run, metrics


class Followed(Objective):
    """Each anchor lies in its batch as a teacher of another size sees its text."""

    def __init__(self, *, teacher):
        super().__init__()
        self.teacher, self.requires = teacher, teacher.requires

    def setup(self, encoder):
        self.teacher.setup(encoder)

    def forward(self, views, batch, ctx):
        wanted = self.teacher.embed(batch, ctx)[:, 0]  # (B, Dt)
        own = torch.nn.functional.normalize(views.anchor, dim=-1)
        return LossOutput(((own @ own.T - wanted @ wanted.T) ** 2).mean())


def fit(run):
    Trainer(run).fit()


def labelled(folder, rows=24):
    path = folder / "labelled.tsv"
    lines = [f"{word} {i} sat on a mat\t{word}" for i in range(rows // 3) for word in ("cat", "dog", "sun")]
    path.write_text("text\tclass\n" + "\n".join(lines))
    return Texts(str(path), label_column="class")


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            SupCon(),
            r"SupCon needs a label in every row, and .* has none\nfix: name its column: --data.label_column",
        ),
        (SupCLSeq(), "objective SupCLSeq needs a label in every row"),
        (CoSENT(), "objective CoSENT needs a score in every row"),
    ],
)
def test_rows_without_what_it_reads_are_refused(objective, said, tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=objective)
    with pytest.raises(UserError, match=said):
        fit(run)
    assert not run.folder.exists()


def test_rows_with_one_view_are_refused(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=DCL(), collator=TextViews(max_length=12, views=1))
    with pytest.raises(UserError, match=r"objective DCL: rows have one view.*set collator.views to 2"):
        fit(run)
    assert not run.folder.exists()


def test_a_teacher_that_does_not_exist_is_refused(tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=Followed(teacher=FrozenEncoder(source=str(tmp_path / "nobody"))))
    with pytest.raises(UserError, match="nobody"):
        fit(run)
    assert not run.folder.exists()


@pytest.mark.parametrize(("objective", "views"), [(SupCon(), 2), (SupCLSeq(rates=[0.0, 0.2]), 1)])
def test_labels_are_trained_on(objective, views, tiny_bert, tmp_path):
    run = make_run(tmp_path, tiny_bert, objective=objective, collator=TextViews(max_length=12, views=views))
    run.data = labelled(tmp_path)
    fit(run)
    losses = [line["loss"] for line in metrics(run.folder) if "loss" in line]
    assert losses[-1] < losses[0]


def test_a_teacher_of_another_size_is_followed(tiny_bert, tmp_path):
    other = save_tiny("roberta", tiny_bert, tmp_path / "other", hidden_size=24)
    still = Encoder(tiny_bert, pooler="mean", dropout=Dropout(attention=0.1, hidden=0.1))
    run = make_run(tmp_path, tiny_bert, encoder=still, objective=Followed(teacher=FrozenEncoder(source=other)))
    fit(run)
    losses = [line["loss"] for line in metrics(run.folder) if "loss" in line]
    assert losses[-1] < losses[0]
    assert all("teacher" not in name for name in run.objective.state_dict())
