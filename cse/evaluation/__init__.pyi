"""The names that the package exports: the one list, which type checkers and `cse.errors.on_demand` read."""

from cse.evaluation.clustering import Clustering as Clustering
from cse.evaluation.comparison import Difference as Difference
from cse.evaluation.comparison import compare as compare
from cse.evaluation.evaluator import STSEvaluator as STSEvaluator
from cse.evaluation.finding import Finding as Finding
from cse.evaluation.finding import scores as scores
from cse.evaluation.held_out import HeldOut as HeldOut
from cse.evaluation.labels import Labels as Labels
from cse.evaluation.mteb_evaluator import MTEB as MTEB
from cse.evaluation.nano_beir import NanoBEIR as NanoBEIR
from cse.evaluation.pair_classification import PairClassification as PairClassification
from cse.evaluation.paraphrases import Paraphrases as Paraphrases
from cse.evaluation.reporting import report as report
from cse.evaluation.results import Scored as Scored
from cse.evaluation.retrieval import Retrieval as Retrieval
from cse.evaluation.scoring import evaluate as evaluate
from cse.evaluation.scoring import run_mteb as run_mteb
from cse.evaluation.several import Several as Several
from cse.evaluation.similarity import Similarity as Similarity
from cse.evaluation.triplets import Triplets as Triplets
