"""The loop and its parts."""

from llm_trainer.training.callbacks import Callback
from llm_trainer.training.checkpoint import load_checkpoint, save_checkpoint
from llm_trainer.training.classification import Classification
from llm_trainer.training.masked_lm import MaskedLM
from llm_trainer.training.objectives import CausalLM, LossTerms, Objective
from llm_trainer.training.optimizer import create_optimizer
from llm_trainer.training.scheduler import create_scheduler
from llm_trainer.training.seq2seq import SequenceToSequence
from llm_trainer.training.trainer import Trainer, TrainResult
from llm_trainer.training.utils import GradientClipping, training_loop

__all__ = [
    "Callback",
    "CausalLM",
    "Classification",
    "GradientClipping",
    "LossTerms",
    "MaskedLM",
    "Objective",
    "SequenceToSequence",
    "TrainResult",
    "Trainer",
    "create_optimizer",
    "create_scheduler",
    "load_checkpoint",
    "save_checkpoint",
    "training_loop",
]
