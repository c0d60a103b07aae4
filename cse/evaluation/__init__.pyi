"""The names that the package exports: the one list, which type checkers and `cse.errors.on_demand` read."""

from cse.evaluation.comparison import Difference as Difference
from cse.evaluation.comparison import compare as compare
from cse.evaluation.evaluator import EvalResult as EvalResult
from cse.evaluation.evaluator import Several as Several
from cse.evaluation.evaluator import scores as scores
from cse.evaluation.evaluators.held_out import HeldOut as HeldOut
from cse.evaluation.evaluators.labels import Clustering as Clustering
from cse.evaluation.evaluators.labels import Labels as Labels
from cse.evaluation.evaluators.mteb import MTEB as MTEB
from cse.evaluation.evaluators.pairs import PairClassification as PairClassification
from cse.evaluation.evaluators.pairs import Similarity as Similarity
from cse.evaluation.evaluators.pairs import Triplets as Triplets
from cse.evaluation.evaluators.paraphrases import Paraphrases as Paraphrases
from cse.evaluation.evaluators.retrieval import NanoBEIR as NanoBEIR
from cse.evaluation.evaluators.retrieval import Retrieval as Retrieval
from cse.evaluation.evaluators.sts import STSEvaluator as STSEvaluator
from cse.evaluation.reports.reporting import report as report
from cse.evaluation.results import Scored as Scored
from cse.evaluation.scoring import evaluate as evaluate
from cse.evaluation.scoring import run_mteb as run_mteb
