"""Words in a scene: honest features answer, noise and other spaces do not, and nothing is found where nothing is."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import manyview as mv
from manyview.cli.main import main
from manyview.errors import UserError
from manyview.models import minilm
from manyview.models.model import Reconstructs
from manyview.scene import locate as locating
from manyview.scene.located import write_located
from manyview.scene.meaning import EVERYDAY, Words, phrases_of
from manyview.scene.options import MODEL
from manyview.scene.scene import Scene
from manyview.zoo import texts

needs_words = pytest.mark.skipif(
    importlib.util.find_spec(minilm.PACKAGE) is None, reason="manyview[text-offline] is not installed"
)
NEAR = {"couch": "sofa", "place to sit": "sofa"}
"""Phrases that mean nearly the same as a word."""


def encode(texts):
    """Words as random directions; phrases of NEAR lie at cosine 0.8 to their word."""
    return np.stack([0.8 * _own(NEAR[text]) + 0.6 * _own(text) if text in NEAR else _own(text) for text in texts])


def _own(word):
    vector = np.random.default_rng(list(word.encode())).normal(size=64)
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def things(scene):
    """The analytic room with a sofa in the left third of every photo and wall elsewhere: features with noise."""
    rng = np.random.default_rng(0)
    views = []
    for view in scene.views:
        height, width = (side // 8 for side in view.depth.shape)
        cells = np.tile(encode(["wall"])[0], (height, width, 1))
        cells[:, : width // 3] = encode(["sofa"])[0]
        cells = cells + rng.normal(size=cells.shape) * 0.05
        views.append(replace(view, features={"words": cells.astype(np.float16)}))
    return replace(scene, views=views, info={**scene.info, "features": {"words": {"channels": 64}}})


def third(view):
    """The column where the sofa ends."""
    cells = view.features["words"].shape[1]
    return cells // 3 / cells * view.depth.shape[1]


def test_what_is_there_is_found_where_it_is_and_what_is_not_is_not(things):
    found = things.locate(["sofa", "elephant"], encoder=encode)
    sofa = found["sofa"]
    assert sofa.there
    assert sofa.confidence > 0.9
    assert [sight.view for sight in sofa.sights] == list(range(len(things)))
    for view in found.scene.views:
        edge = int(third(view))
        assert (view.labels[:, : edge - 5] == 0).all()
        assert (view.labels[:, edge + 5 :] == -1).all()
    inside = np.concatenate([place.points for place in sofa.places])
    assert len(inside) > 1000
    assert not found["elephant"].there
    assert found["elephant"].places == []
    assert found["elephant"].confidence < 0.5


def test_places_are_in_the_frame_of_the_scene_and_in_their_boxes(things):
    place = things.locate(["sofa"], encoder=encode)["sofa"].places[0]
    cloud = things.cloud(quantile=0.1)
    rows = {tuple(row) for row in cloud.xyz.tolist()}
    assert all(tuple(point) in rows for point in place.points[::50].tolist())
    local = (place.points - place.box.centre) @ place.box.axes.T
    assert (np.abs(local) <= place.box.size / 2 + 1e-6).all(1).mean() > 0.85
    assert np.allclose(place.box.axes @ place.box.axes.T, np.eye(3), atol=1e-6)
    assert place.box.corners.shape == (8, 3)


def test_words_that_mean_the_same_speak_for_each_other(things):
    for query in ("couch", "place to sit", "elephant | couch", ("lamp", "couch")):
        assert things.locate([query], encoder=encode).found[0].there, query
    words = Words([("couch",), ("lamp",), ("unheard of",)], "words", encode)
    assert [[EVERYDAY[i] for i in row.nonzero()[:, 0]] for row in words.meant] == [["sofa"], ["lamp"], []]


def test_noise_and_the_features_of_another_word_are_not_found(things):
    rng = np.random.default_rng(1)
    noise = [replace(v, features={"words": rng.normal(size=v.features["words"].shape)}) for v in things.views]
    found = replace(things, views=noise).locate(["sofa", "chair", "lamp"], encoder=encode)
    assert [one.there for one in found.found] == [False] * 3
    empty = [replace(v, features={"words": 0 * v.features["words"]}) for v in things.views]
    assert replace(things, views=empty).locate(["sofa"], encoder=encode).found[0].confidence == 0


def test_the_threshold_is_a_probability(things):
    def blend(share):
        mixed = share * encode(["lamp"])[0] + (1 - share) * encode(["wall"])[0]
        return float(Words([("lamp",)], "words", encode).probabilities(mixed[None, None])[0, 0, 0])

    assert blend(0.5) == pytest.approx(0.5, abs=0.05)  # as near to the query as to one other word
    assert blend(0.3) < 0.1 < 0.9 < blend(0.7)
    with pytest.raises(UserError, match=r"threshold is 1\.5"):
        things.locate(["sofa"], encoder=encode, threshold=1.5)


def test_each_query_is_asked_by_itself(things):
    alone = things.locate(["sofa"], encoder=encode).found[0]
    many = things.locate(["sofa", "couch", *(f"thing {n}" for n in range(98))], encoder=encode)
    assert len(many.found) == 100
    assert many["sofa"].confidence == pytest.approx(alone.confidence)
    assert len(many["couch"].places[0].points) == pytest.approx(len(alone.places[0].points), rel=0.1)
    assert not any(many[f"thing {n}"].there for n in range(98))


def test_bad_questions_say_what_to_do(scene, things):
    for queries, message in (
        ([], "nothing to look for"),
        (None, "nothing to look for"),
        (["sofa", " "], "query 2 of 2 is empty"),
        (["|"], "empty"),
        (["sofa", "...", "lamp"], r"query 2 of 3 holds no word \('...'\)"),
        (["?! | \u200b"], "holds no word"),
        (["\x00\x1b"], "holds no word"),
        ([5], "query 1 of 1 is 5, no text"),
        ([("sofa", None)], "no text"),
    ):
        with pytest.raises(UserError, match=message):
            things.locate(queries, encoder=encode)
    assert phrases_of("sofa") == [("sofa",)]
    assert phrases_of([" red \n\t sofa\x07 |... | couch", "\U0001f6cb", "7"]) == [
        *(("red sofa", "couch"), ("\U0001f6cb",), ("7",))
    ]
    with pytest.raises(UserError, match=f"no features .*--model {MODEL}"):
        scene.locate(["sofa"], encoder=encode)
    with pytest.raises(UserError, match="features of words, not of 'clip'"):
        things.locate(["sofa"], encoder=encode, space="clip")
    with pytest.raises(UserError, match="every word of the background means 'sofa'"):
        things.locate(["lamp", "sofa"], encoder=encode, background="sofa")
    with pytest.raises(UserError, match="none of them empty"):
        things.locate(["sofa"], encoder=encode, background="wall,,")
    with pytest.raises(UserError, match="needs words with commas between"):
        things.locate(["sofa"], encoder=encode, background=",")
    with pytest.raises(UserError, match="64 channels, the text encoder has 3"):
        things.locate(["sofa"], encoder=lambda texts: np.random.default_rng(0).normal(size=(len(texts), 3)))
    with pytest.raises(UserError, match="no text encoder speaks for the feature space 'words'"):
        things.locate(["sofa"])
    other = replace(things, views=[replace(v, features={"minilm": v.features["words"]}) for v in things.views])
    for odd in ("text", {"words": 3}, {"words": {"text_encoder": None}}):  # no word of a text encoder
        with pytest.raises(UserError, match="no text encoder speaks"):
            replace(things, info={**things.info, "features": odd}).locate(["sofa"])
    other.info["features"] = {"minilm": {"text_encoder": "another"}}
    with pytest.raises(UserError, match="made for the text encoder another"):
        other.locate(["sofa"])
    assert "English" in things.locate(["диван"], encoder=encode).notes[-1]


def test_photos_without_a_camera_show_things_that_have_no_place(things):
    lost = [replace(things.views[0], cam2world=None, rests_on="nothing", component=1), *things.views[1:]]
    blind = [replace(view, features={}) for view in lost[1:]]
    found = replace(things, views=[lost[0], *blind]).locate(["sofa"], encoder=encode)
    assert found["sofa"].there
    assert found["sofa"].places == []
    assert any("no camera" in note for note in found.notes)
    assert any("none whose points have a place" in note for note in found.notes)


def test_photos_without_features_are_left_out_and_lose_the_labels_of_earlier_queries(things, tmp_path):
    before = things.locate(["elephant", "sofa"], encoder=encode).scene
    assert 1 in before.views[0].labels
    half = replace(before, views=[replace(before.views[0], features={}), *before.views[1:]])
    located = half.locate(["sofa"], encoder=encode)
    assert located.scene.views[0].labels is None
    assert [sight.view for sight in located["sofa"].sights] == list(range(1, len(things)))
    assert located.notes == [f"no features of words, so not looked at: {things.views[0].name}"]
    write_located(located, tmp_path / "found")


def test_features_that_are_not_finite_show_nothing(things):
    cells = things.views[0].features["words"].copy()
    cells[0, 0, 0], cells[1, 0, 5] = np.nan, np.inf
    chances = Words([("sofa",)], "words", encode).probabilities(cells)[0]
    assert chances[0, 0] == chances[1, 0] == 0
    assert float(chances[2, 0]) > 0.9
    assert bool(chances.isfinite().all())


def test_two_photos_without_overlap_answer_each_in_its_own_frame(things):
    """The second photo is of another component: nothing joins what both show, and that is said."""
    apart = [things.views[0], replace(things.views[1], component=1)]
    located = replace(things, views=apart).locate(["sofa", "elephant"], encoder=encode)
    assert {place.component for place in located["sofa"].places} == {0, 1}
    assert all(len(place.views) == 1 for place in located["sofa"].places)
    assert any("several scenes that nothing joins" in note for note in located.notes)
    assert not located["elephant"].there
    together = replace(things, views=things.views[:2]).locate(["sofa"], encoder=encode)
    assert not together.notes
    assert {place.component for place in together["sofa"].places} == {0}


def test_an_unknown_language_finds_nothing_and_says_so_on_the_command_line(things, tmp_path, monkeypatch, capsys):
    things.save(tmp_path / "scene")
    monkeypatch.setattr(locating, "spoken", lambda scene, space: encode)
    assert main(["locate", str(tmp_path / "scene"), "диван", "-o", str(tmp_path / "found")]) == 0
    said = capsys.readouterr()
    assert "the text encoders read English" in said.out + said.err
    (found,) = json.loads((tmp_path / "found" / "located.json").read_text())["queries"]
    assert not found["there"]


@needs_words
def test_words_that_the_text_encoder_hardly_knows_are_named(things, tmp_path):
    """Everything else than English things would otherwise be "not there" like a zebra."""
    real = partial(texts.embed_texts, "minilm")
    for background in (EVERYDAY, ("wall", "pizza")):
        strange = ["Stuhl", "chaise", "ventana", "asdf", "etwas zum Lesen"]
        usual = ["zebra", "violin", "toothbrush", "couch", "something to read", "place to sit"]
        words = Words([*((word,) for word in [*strange, *usual]), ("Stuhl", "chair")], "minilm", real, background)
        assert words.known == [*[False] * len(strange), *[True] * len(usual), True]
    of_minilm = [replace(view, features={"minilm": np.zeros((4, 6, 384), np.float16)}) for view in things.views]
    replace(things, views=of_minilm, info={}).save(tmp_path / "scene")
    notes = mv.locate(str(tmp_path / "scene"), ["Stuhl", "zebra", "asdf" * 1000]).notes
    assert notes == [
        f"the text encoder seems not to know 'Stuhl', '{'asdf' * 9}asd…', so its answer says little; "
        "ask in other words, in English"
    ]


def test_a_scene_keeps_its_features_and_labels(things, tmp_path):
    located = things.locate(["sofa"], encoder=encode)
    located.scene.save(tmp_path / "scene")
    again = Scene.load(tmp_path / "scene")
    for one, two in zip(located.scene.views, again.views, strict=True):
        assert np.array_equal(one.features["words"], two.features["words"])
        assert np.array_equal(one.labels, two.labels)
        assert np.array_equal(one.scores, two.scores)
    assert again.info["labels"] == ["sofa"]
    assert again.locate(["sofa"], encoder=encode).to_json() == located.to_json()
    header = json.loads((tmp_path / "scene" / "scene.json").read_text())
    assert header["version"] == 2  # programs that know no features read it as before
    for entry in header["views"]:
        del entry["features"], entry["labels"], entry["scores"]
    (tmp_path / "scene" / "scene.json").write_text(json.dumps(header))
    assert Scene.load(tmp_path / "scene").views[0].features == {}
    header["views"][0]["features"] = {"words": "features/0000-0.npy"}
    (tmp_path / "scene" / "scene.json").write_text(json.dumps(header))
    np.save(tmp_path / "scene" / "features" / "0000-0.npy", np.zeros((0, 8, 64), np.float16))
    with pytest.raises(UserError, match="the scene is damaged"):
        Scene.load(tmp_path / "scene")


def test_what_was_found_is_written(things, tmp_path):
    import trimesh

    located = things.locate(["sofa", "elephant", "couch"], encoder=encode)
    write_located(located, tmp_path / "found")
    write_located(located, tmp_path / "found")  # its own answer is replaced
    plain = json.loads((tmp_path / "found" / "located.json").read_text())
    assert [(q["query"], q["there"]) for q in plain["queries"]] == [
        *(("sofa", True), ("elephant", False), ("couch", True))
    ]
    assert plain["queries"][0]["photos"][0]["box"][0] == 0
    colour = plain["queries"][0]["colour"]
    overlays = sorted((tmp_path / "found" / "overlays").glob("*.jpg"))
    assert len(overlays) == len(things)
    for file, view in zip(overlays, things.views, strict=True):
        height, width = view.image.shape[:2]
        with Image.open(file) as picture:
            shown = np.asarray(picture).astype(int)
        assert shown.shape[0] > height
        assert shown.shape[1] == width
        square = shown[height + 5 : height + 11, 5:11].reshape(-1, 3)  # the first colour of the legend
        assert np.abs(square - list(bytes.fromhex(colour[1:]))).max() < 40
        assert (shown[height:].max(-1) < 100).sum() > 20  # its name
    ply = trimesh.load(tmp_path / "found" / "points.ply")
    labels = ply.metadata["_ply_raw"]["vertex"]["data"]["label"]
    assert set(np.unique(labels)) == {-1, 0}
    shades = ply.colors[labels.ravel() == 0][:, :3].astype(int)
    assert (shades.max(1) - shades.min(1) > 40).mean() > 0.9  # coloured; the rest is grey
    assert (np.ptp(ply.colors[labels.ravel() == -1][:, :3].astype(int), 1) <= 1).all()
    assert "points" in trimesh.load(tmp_path / "found" / "points.glb").geometry
    queries = {file.name: trimesh.load(file) for file in (tmp_path / "found" / "queries").iterdir()}
    assert sorted(queries) == ["00.ply", "02.ply"]  # the couch has its points, though the sofa has their colour
    for one, cloud in zip((located["sofa"], located["couch"]), (queries["00.ply"], queries["02.ply"]), strict=True):
        assert len(cloud.vertices) == sum(len(place.points) for place in one.places)
        ranks = cloud.metadata["_ply_raw"]["vertex"]["data"]["label"].ravel()
        first = cloud.vertices[ranks == 0]
        np.testing.assert_allclose(np.median(first, 0), one.places[0].position, atol=1e-5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="mine"):
        write_located(located, tmp_path / "mine")


def test_the_command(things, tmp_path, monkeypatch, capsys):
    things.save(tmp_path / "scene")
    monkeypatch.setattr(locating, "spoken", lambda scene, space: encode)
    line = ["locate", str(tmp_path / "scene"), "sofa | couch", "elephant", "-o", str(tmp_path / "found"), "--json"]
    assert main(line) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["there"] for one in answer["queries"]] == [True, False]
    assert answer["queries"][0]["phrases"] == ["sofa", "couch"]
    assert main(line[:-1]) == 0
    assert "elephant" in capsys.readouterr().out
    assert main(["locate", str(tmp_path / "none"), "sofa", "-o", str(tmp_path / "x")]) == 2
    assert "name a scene directory or photos first" in capsys.readouterr().err
    long = [*line[:2], "thing " * 50, "so\nfa\x1b", "-o", str(tmp_path / "long")]
    assert main(long) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].startswith("thing thing")
    assert "… " in rows[1]
    assert rows[2].startswith("so fa ")
    assert max(map(len, rows[:3])) < 120
    assert main([*line[:2], "", "-o", str(tmp_path / "x")]) == 2
    assert "query 1 of 1 is empty" in capsys.readouterr().err
    assert main([*line[:3], "-o", str(tmp_path / "scene")]) == 2
    assert mv.locate(str(tmp_path / "scene"), ["sofa"], encoder=encode)["sofa"].there


def test_what_cannot_be_answered_is_said_before_the_photos_are_looked_at(tmp_path, monkeypatch, capsys):
    from manyview.pipelines import locate as pipeline

    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    monkeypatch.setattr(pipeline, "reconstruct", lambda *args, **how: pytest.fail("it began to work"))
    line = ["locate", str(tmp_path / "photo.png"), "sofa", "-o", str(tmp_path / "out")]
    assert main([*line, "--model", "manyview-tiny"]) == 2
    assert "no features that answer to words" in capsys.readouterr().err
    silent = type("Silent", (Reconstructs,), {"config": SimpleNamespace(feature_heads=(("minilm", 384),))})()
    monkeypatch.setattr(pipeline, "load_as", lambda *args: (silent, "silent"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    texts.text_encoder_of.cache_clear()
    assert main(line) == 2
    assert "pip install 'manyview[text-offline]'" in capsys.readouterr().err
    texts.text_encoder_of.cache_clear()
