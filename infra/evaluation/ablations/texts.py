"""Other cleanings of the texts that BERT reads. The document that moonlark began with strips stop
words, punctuation and endings before BERT; models of that kind were trained on whole sentences.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from infra.evaluation.errors import NotHere

try:
    import snowballstemmer
    from stop_words import get_stop_words
except ImportError:
    snowballstemmer = None

_WORD = re.compile(r"\w+|[^\w\s]")
if snowballstemmer is not None:
    _STOP = frozenset(get_stop_words("english"))
    _STEM = snowballstemmer.stemmer("english")


def without_stop_words(text: str) -> str:
    """English stop words left out."""
    return " ".join(word for word in text.split() if word.lower().strip(".,;:!?") not in _STOP)


def without_punctuation(text: str) -> str:
    """Words alone, in small letters."""
    return " ".join(word.lower() for word in _WORD.findall(text) if word[0].isalnum())


def stemmed(text: str) -> str:
    """Words alone, their endings cut (Porter 2)."""
    return " ".join(_STEM.stemWords(without_punctuation(text).split()))


def as_in_the_seed(text: str) -> str:
    """All of it: stop words, punctuation and endings."""
    return stemmed(without_stop_words(text))


def as_it_comes(text: str) -> str:
    """As it is."""
    return text


SHIPPED, RAW = "shipped", "markup left in"
CLEANINGS: Mapping[str, Callable[[str], str]] = {
    SHIPPED: as_it_comes,
    RAW: as_it_comes,
    "without stop words": without_stop_words,
    "without punctuation": without_punctuation,
    "stemmed": stemmed,
    "stop words, punctuation, endings": as_in_the_seed,
}


def cleaned(texts: Sequence[str], cleaning: str) -> list[str]:
    """The texts by one of CLEANINGS; they were cleaned as it ships before, but for RAW.

    Raises:
        NotHere: another than the shipped one, and the extra is not installed.
    """
    if cleaning not in (SHIPPED, RAW) and snowballstemmer is None:
        raise NotHere(cleaning, "its word lists are missing", "pip install -e '.[evaluation]'")
    return [CLEANINGS[cleaning](text) for text in texts]
