"""Sentences in any script become words that a network can tell apart, and old vocabularies read as they did."""

import random
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robots.embodiments import STATE
from robots.wordings import checked_words
from robots.worlds.language_table import LANGUAGE_TABLE
from training.checkpoints import load_checkpoint
from training.networks.network import Network
from training.vocabulary import UNKNOWN, Vocabulary

STORED = Path(__file__).parents[1] / "stored_folder" / "folder.tar.xz"
ARM = replace(LANGUAGE_TABLE, objects=(), overhead=None, observation={STATE: LANGUAGE_TABLE.observation[STATE]})
SIZES = {"hidden": 16, "layers": 1, "action_bins": 7, "bins": 10}
PAIRS = {  # two sentences of a language that ask for different things
    "german": ("Lege den Würfel in die große Schüssel.", "Lege die Würfel in die grüne Schüssel."),
    "chinese": ("把红色方块放进碗里。", "把绿色方块放进碗里。"),
    "japanese": ("赤いキューブをボウルに入れて", "青いキューブをボウルに入れて"),
    "thai": ("วางลูกบาศก์สีแดงลงในชาม", "วางลูกบาศก์สีเขียวลงในชาม"),
    "hindi": ("लाल घन को कटोरे में रखो", "लाल घन को कटोरी में रखो"),
    "korean": ("빨간 큐브를 그릇에 넣어", "파란 큐브를 그릇에 넣어"),
    "arabic": ("ضع المكعب الأحمر في الوعاء", "ضع المكعب الأزرق في الوعاء"),
    "emoji": ("put the 🍎 into “the bin”", "put the 🍌 into “the bin”"),
}


def as_before(text):
    return re.findall(r"[a-z0-9]+", text.lower())


@pytest.mark.parametrize(
    "text, words",
    [
        ("Lege den WÜRFEL in die große Schüssel!", ["lege", "den", "würfel", "in", "die", "grosse", "schüssel"]),
        ("Pose le cube près de l’évier.", ["pose", "le", "cube", "près", "de", "l", "évier"]),
        ("把红色方块放进2号碗里。", ["把", "红", "色", "方", "块", "放", "进", "2", "号", "碗", "里"]),
        ("カップをﾎﾞｳﾙへ", ["カ", "ッ", "プ", "を", "ボ", "ウ", "ル", "へ"]),
        ("ส่ง", ["ส่", "ง"]),
        ("रखो", ["रखो"]),
        ("put 🍎🍌 into 'the_bin' ❤️", ["put", "🍎", "🍌", "into", "the", "bin", "❤"]),
        ("…!?", []),
    ],
)
def test_words_of_any_script(text, words):
    assert Vocabulary.split(text) == words


def test_letters_that_are_put_together_in_another_way_are_the_same_word():
    assert Vocabulary.split("Wu\u0308rfel") == Vocabulary.split("W\u00fcrfel") == Vocabulary.split("WÜRFEL")
    assert Vocabulary.split("\uff43ube \ufb01") == ["cube", "fi"]


def test_a_word_is_one_word_when_it_is_read_again():
    for code in range(0, sys.maxunicode + 1):
        character = chr(code)
        if not 0xD800 <= code < 0xE000:
            assert all(Vocabulary.split(word) == [word] for word in Vocabulary.split(character)), hex(code)


@pytest.mark.parametrize("language", PAIRS)
def test_a_task_typed_in_any_language_gives_each_of_its_sentences_a_goal_of_its_own(language):
    words, problems = checked_words(PAIRS[language], (), {})
    assert not problems and len(words.wordings) == 2
    vocabulary = Vocabulary.of(words.wordings, ARM)
    encoded = vocabulary.encode(words.wordings)
    assert not (encoded == UNKNOWN).any() and not encoded[0].equal(encoded[1])
    torch.manual_seed(0)
    goals = Network(ARM, vocabulary, **SIZES).goal(encoded)
    assert (goals[0] - goals[1]).abs().max() > 1e-3
    assert (vocabulary.encode(["xyzzy 龘"]) == UNKNOWN).all()


def test_a_stored_checkpoint_reads_every_sentence_as_it_did(tmp_path):
    with tarfile.open(STORED) as archive:
        for member in archive:
            if member.name.startswith("checkpoints/") and member.isfile():
                archive.extract(member, tmp_path, filter="data")
                break
    network, metadata = load_checkpoint(tmp_path / member.name)
    vocabulary, rng = Vocabulary(metadata.vocabulary), random.Random(0)
    texts = [" ".join(rng.choices(metadata.vocabulary, k=8)) for _ in range(200)]
    texts += ["".join(chr(rng.randrange(128)) for _ in range(40)) for _ in range(200)]
    texts += [text for pair in PAIRS.values() for text in pair]
    numbers = {word: number for number, word in enumerate(metadata.vocabulary, 2)}
    for text in texts:
        expected = [numbers.get(word, UNKNOWN) for word in as_before(text)] or [UNKNOWN]
        assert vocabulary.encode([text])[0].tolist() == expected, text
    known, other = (network.goal(vocabulary.encode([text])) for text in ("push the red moon", "push the blue moon"))
    assert not known.equal(other)


def test_a_vocabulary_of_plain_letters_is_the_one_that_it_was():
    rng = random.Random(1)
    texts = ["".join(chr(rng.randrange(128)) for _ in range(60)) for _ in range(500)]
    assert Vocabulary.of(texts, ARM).words == sorted({word for text in texts for word in as_before(text)})
