"""Cards: one for every name, a source for every field, exact counts, licences that follow the weights."""

from __future__ import annotations

import json

import pytest
import torch

import manyview as mv
from manyview import zoo
from manyview.zoo.cards import CARDS, read_cards

PUBLISHED = [
    *(f"dinov2-vit{size}14{suffix}" for size in "sbl" for suffix in ("", "-reg4")),
    *("croco-v2-vitl16", "dunemast3r-vitb14", "dunemast3r-vits14", "mum-vitl16", "mum-vitl16-full"),
    *(f"dune-vit{size}14-{side}" for size in "sb" for side in (336, 448)),
    *("dune-vitb14-448-paper", "mum-vitb16-full", "mast3r-vitl16", "fast3r-vitl16", "distill3r"),
    *(f"dust3r-vitl16-{kind}" for kind in ("224-linear", "512-linear", "512-dpt")),
    *("sab3r-cd", "sab3r-c", "maskclip-vitb16", "featup-jbu-maskclip", "featup-jbu-dinov2"),
    *("multihmr-vitl14-672", "vggt-1b", "manyview-tiny", "manyview-small", "manyview-small-words"),
]

# The fields that say where they are known from, each in `sources`.
SOURCED = (
    *("paper", "published", "hub", "url", "file", "bytes", "sha256", "container", "licence", "allows"),
    *("parameters", "preprocessing", "scores"),
)


def test_every_published_model_and_every_name_has_a_card():
    assert set(PUBLISHED) <= set(CARDS)
    assert set(zoo.names()) <= set(CARDS)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_field_of_a_card_says_where_it_is_known_from(name):
    card = CARDS[name]
    assert [field for field in SOURCED if not card.sources.get(field)] == []
    assert set(card.sources) <= set(SOURCED)
    assert card.task
    assert card.paper
    assert card.licence
    assert card.allows
    assert card.published or card.bundled or card.note  # without a page, it says how to get one
    assert not (card.published and not card.bundled) or card.file
    assert card.sha256 is None or len(card.sha256) == 64
    assert not card.url or card.url.startswith("https://")
    assert json.dumps(card.scores)


@pytest.mark.parametrize("name", [n for n in zoo.names() if n in CARDS and CARDS[n].parameters])
def test_cards_count_the_parameters(name):
    with torch.device("meta"):
        model = zoo.build(name)
    assert sum(p.numel() for p in model.parameters()) == CARDS[name].parameters


def test_a_cards_own_words_win_over_its_files(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        '[shared]\nlicence = "A"\ntask = "t"\npaper = "p"\npublished = "u"\nallows = "all"\n'
        '[shared.sources]\n"licence paper" = "readme"\n'
        '[model.one]\nlicence = "B"\n[model.one.sources]\nlicence = "notice"\n[model.two]\n'
    )
    one, two = read_cards(path.read_text())
    assert (one.name, one.licence, one.sources) == ("one", "B", {"licence": "notice", "paper": "readme"})
    assert (two.licence, two.sources["licence"]) == ("A", "readme")


def test_licences_follow_a_model_into_what_is_made_from_it(tmp_path):
    teacher = zoo.save_model(zoo.build("dune-vits14-448", size="debug"), tmp_path / "dune", CARDS["dune-vits14-448"])
    student = zoo.build("distill3r", size="debug", encoder=teacher)
    out = zoo.save_model(student, tmp_path / "student", {"name": "mine"}, derived_from=zoo.licences_of("fast3r-vitl16"))
    found = {entry["name"]: entry for entry in zoo.licences_of(out)}
    assert set(found) == {"dune-vits14-448", "fast3r-vitl16"}
    assert "NAVER" in found["dune-vits14-448"]["licence"]
    assert not any(entry["permissive"] for entry in found.values())
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlicense: other\n")
    assert "FAIR Noncommercial" in text
    again = zoo.save_model(mv.load(out), tmp_path / "again")  # loaded and saved: nothing is forgotten
    assert {e["name"] for e in zoo.licences_of(again)} == set(found)
    assert {e["name"] for e in zoo.licences_of(mv.load(again))} == set(found)


def test_licences_of_what_is_not_known_are_none(tmp_path):
    assert zoo.licences_of(tmp_path) == []
    assert zoo.licences_of("nothing") == []
    (tmp_path / "config.json").write_text("{")
    assert zoo.licences_of(tmp_path) == []
    assert [e["name"] for e in zoo.licences_of("/somewhere/MuM_ViTLarge.pth")] == ["mum-vitl16"]


def test_the_readme_of_a_directory_says_what_it_is(tmp_path):
    model = zoo.build("dinov2-vits14", size="debug")
    text = (zoo.save_model(model, tmp_path / "m", CARDS["dinov2-vits14"]) / "README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "# dinov2-vits14" in text
    assert "79.0 / 81.1" in text
