"""The thin runtime: open an artifact, run it, time it. NumPy and one engine; no torch, no network."""

from .artifact import Artifact as Artifact
from .artifact import Port as Port
from .artifact import Step as Step
from .artifact import read_artifact as read_artifact
from .errors import EdgepressError as EdgepressError
from .family import Family as Family
from .family import read_family as read_family
from .golden import SelfTest as SelfTest
from .language import LanguageModel as LanguageModel
from .language import load_language as load_language
from .session import LoadedModel as LoadedModel
from .session import Session as Session
from .session import load as load
