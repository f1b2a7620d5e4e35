# The front of the library: what `arbook` itself offers, and from where. `__init__.py` reads this list too.

# `plots`, which needs what only the book needs, is not among the modules: `import arbook.plots`.
from . import ar as ar
from . import checkpoints as checkpoints
from . import cli as cli
from . import compression as compression
from . import conformance as conformance
from . import data as data
from . import decoders as decoders
from . import encodings as encodings
from . import files as files
from . import guards as guards
from . import leastsquares as leastsquares, machines as machines
from . import micro as micro
from . import ngram as ngram
from . import objective as objective
from . import perplexity as perplexity
from . import recurrent as recurrent
from . import rules as rules
from . import runs as runs
from . import sampling as sampling
from . import sources as sources, steps as steps, tables as tables
from . import tokens as tokens
from . import training as training
from . import transformer as transformer
from . import workshop as workshop
from .ar import DirectAR as DirectAR
from .ar import LinearAR as LinearAR
from .ar import Persistence as Persistence
from .ar import SeasonalNaive as SeasonalNaive
from .ar import backtest as backtest
from .ar import lag_matrix as lag_matrix
from .ar import select_order as select_order
from .ar import simulate as simulate
from .compression import compress as compress
from .compression import decompress as decompress
from .conformance import check_conformance as check_conformance
from .data import available as available
from .data import series as series
from .data import splits as splits
from .data import text as text
from .ngram import NGramLM as NGramLM
from .objective import LanguageModel as LanguageModel
from .objective import autoregressive_loss as autoregressive_loss
from .objective import compute_perplexity as compute_perplexity
from .perplexity import TransformersLM as TransformersLM
from .perplexity import score as score
from .recurrent import LSTMConfig as LSTMConfig
from .recurrent import LSTMLM as LSTMLM
from .rules import Chain as Chain, Greedy as Greedy, MinP as MinP, RepetitionPenalty as RepetitionPenalty, Temperature as Temperature, TopK as TopK, TopP as TopP, sample_next_token as sample_next_token
from .runs import load_model as load_model, recorded_model as recorded_model, save_model as save_model
from .sampling import Chain as Chain, Greedy as Greedy, MinP as MinP, RepetitionPenalty as RepetitionPenalty, Temperature as Temperature, TopK as TopK, TopP as TopP
from .sampling import beam_search as beam_search
from .sampling import generate as generate
from .sampling import greedy_decode as greedy_decode
from .sampling import stream as stream
from .tokens import BPETokenizer as BPETokenizer
from .tokens import CharTokenizer as CharTokenizer
from .tokens import WordTokenizer as WordTokenizer
from .training import TrainConfig as TrainConfig
from .training import load_model as load_model
from .training import recorded_model as recorded_model
from .training import save_model as save_model
from .training import train as train
from .transformer import GPT as GPT
from .transformer import GPTConfig as GPTConfig

__version__: str
