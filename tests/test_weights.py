"""Weights on disk: what is written comes back, and what is damaged or foreign is refused in one
line.
"""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from panoseg.classes import PASTIS, ClassTable
from panoseg.data.samples import Normalisation
from panoseg.errors import ConfigError, OutputError, WeightsError
from panoseg.models.configs import to_json
from panoseg.models.configs.parcels import PapsConfig
from panoseg.models.configs.season import ConvRnnConfig, UtaeConfig
from panoseg.models.ltae import day_of_year
from panoseg.models.network import build_network, initialise
from panoseg.models.weights import CARD, NUMBERS, Weights, WeightsCard, load_weights, save_weights
from small_networks import SMALL_UTAE

SMALL = replace(SMALL_UTAE, bands=2, reference_date="2017-10-15")
TABLE = ClassTable("four", PASTIS.classes[:4])
NORMALISATION = Normalisation((1000.0, 2000.5), (10.0, 0.1), ("B04", "B08"))


def make_weights(**options) -> Weights:
    torch.manual_seed(0)
    config = PapsConfig(SMALL)
    card = WeightsCard(
        config, NORMALISATION, TABLE, "2017-10-15", "noise", {"seed": 0}, {"PQ": 12.5}, **options
    )
    return Weights(card, initialise(build_network(config)).state_dict())


@pytest.fixture
def folder(tmp_path):
    save_weights(tmp_path / "weights", make_weights())
    return tmp_path / "weights"


def test_what_is_saved_comes_back(folder):
    weights, loaded = make_weights(), load_weights(folder)
    assert loaded.card == weights.card
    assert loaded.card.bands == ("B04", "B08")
    assert loaded.card.season_start == (10, 15)
    assert list(loaded.state) == list(weights.state) or set(loaded.state) == set(weights.state)
    for name, value in weights.state.items():
        assert torch.equal(loaded.state[name], value), name
    assert load_weights(folder / NUMBERS).card == weights.card


def test_the_model_is_ready_to_predict(folder):
    weights = load_weights(folder)
    model = weights.network()
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights.state[name])


def test_loading_leaves_random_numbers_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_weights(folder).network()
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_is_half_as_large_and_becomes_float32(folder, tmp_path):
    weights = make_weights()
    weights.state["size_mlp.1.running_var"][0] = 1e6
    save_weights(tmp_path / "half", weights, half=True)
    assert (tmp_path / "half" / NUMBERS).stat().st_size < 0.75 * (folder / NUMBERS).stat().st_size
    loaded = load_weights(tmp_path / "half").state
    for name, value in weights.state.items():
        assert loaded[name].dtype == value.dtype
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6)
    assert loaded["size_mlp.1.running_var"][0] == 1e6


def test_weights_replace_weights_and_nothing_else(folder, tmp_path):
    save_weights(folder, make_weights(version="later"))
    assert load_weights(folder).card.version == "later"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(OutputError, match=r"holds cat\.jpg"):
        save_weights(tmp_path / "photos", make_weights())
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_an_unwritable_place_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_weights(tmp_path / "file" / "weights", make_weights())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")  # what to do
    return message


def test_missing_files_are_named(folder, tmp_path):
    assert str(tmp_path / "nowhere" / CARD) in refused(tmp_path / "nowhere")
    os.remove(folder / NUMBERS)
    assert NUMBERS in refused(folder)


def test_truncated_numbers_are_refused(folder):
    content = (folder / NUMBERS).read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        (folder / NUMBERS).write_bytes(content[:length])
        assert "not a whole safetensors file" in refused(folder)


def test_mismatches_are_listed_by_name_and_cut(folder):
    state = dict(make_weights().state)
    for name in [name for name in state if name.startswith("class_mlp")]:
        del state[name]
    state["mask_cnn.0.weight"] = torch.zeros(2, 2)
    state["a_stranger"] = torch.zeros(1)
    save_file(state, folder / NUMBERS)
    message = refused(folder)
    assert "11 missing (class_mlp.0.weight, class_mlp.0.bias" in message
    assert "and 6 more" in message
    assert "1 unexpected (a_stranger)" in message
    assert "mask_cnn.0.weight is (2, 2), not (16, 1, 3, 3)" in message


def test_weights_of_another_model_are_refused(folder):
    semantic = UtaeConfig(**vars(SMALL))
    save_file(build_network(semantic).state_dict(), folder / NUMBERS)
    assert "missing (min_confidence, encoder.in_conv" in refused(folder)
    with pytest.raises(
        WeightsError, match=r"the table of weights does not fit the .* entries of UTAE"
    ):
        Weights(replace(make_weights().card, model=semantic), make_weights().state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card: card.pop("classes"), "lacks 'classes'"),
        (lambda card: card.update(model={"model": "yolo"}), "yolo"),
        (lambda card: card["normalisation"].update(mean=[1.0]), "1 means"),
        (lambda card: card["normalisation"].update(std=[1.0, 0.0]), "positive"),
        (lambda card: card.update(normalisation=3), "not a card"),
        (lambda card: card["normalisation"]["mean"].__setitem__(0, 10**400), "too large"),
        (lambda card: card.update(reference_date="September"), "September"),
        (lambda card: card["model"]["backbone"].update(bands=10), "10 bands"),
        (lambda card: card["model"].update(shape_size="16"), "shape_size '16'"),
        (lambda card: card["model"].update(shape_size=10**6), "at most 4096"),
        (lambda card: card["model"]["backbone"].update(decoder_widths=[8, 10**12]), "at most 4096"),
        (lambda card: card.update(reference_date="2018-02-30"), "2018-02-30"),
        (lambda card: card["normalisation"]["mean"].__setitem__(0, float("nan")), "finite"),
        (
            lambda card: card.update(reference_date="2020-02-29"),
            "'2020-02-29' is not a reference date",
        ),
        (lambda card: card.update(reference_date="20171015"), "'20171015'"),
        (
            lambda card: card.update(reference_date="2018-09-01"),
            "from 2017-10-15, but the seasons of the card from 2018-09-01",
        ),
        (
            lambda card: card["provenance"].update(fold=[1]),
            "fold in the provenance must be a whole number, not [1]",
        ),
        (
            lambda card: card["provenance"].update(single_date=3),
            "single_date in the provenance must be text, not 3",
        ),
        (
            lambda card: card["provenance"].update(normalisation={}),
            "normalisation in the provenance must be one of train, published, not {}",
        ),
        (
            lambda card: card["provenance"].update(min_side="800"),
            "min_side in the provenance must be a whole number from 0 to 8192, not '800'",
        ),
        (
            lambda card: card["provenance"].update(max_side=None),
            "max_side in the provenance must be a whole number from 0 to 8192, not None",
        ),
        (
            lambda card: card["provenance"].update(max_side=10**9),
            "a whole number from 0 to 8192, not 1000000000",
        ),
        (lambda card: card.update(trained_on="x" * 5_000_000), "bytes"),
    ],
)
def test_damaged_cards_are_refused(folder, change, words):
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))
    assert words in refused(folder)


def test_options_that_multiply_to_a_huge_network_are_refused_before_it_fills_memory(folder):
    """Each of them is within its bound."""
    with pytest.raises(
        ConfigError,
        match=r"A ConvLSTM of 225,900,000 parameters or more is too large: at most 200,000,000",
    ):
        build_network(ConvRnnConfig(hidden=2500))
    card = json.loads((folder / CARD).read_text())
    card["model"]["backbone"] = to_json(ConvRnnConfig(bands=2, classes=4, hidden=2500))
    (folder / CARD).write_text(json.dumps(card))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(folder)
    assert f"{folder / CARD}: cannot be used: A ConvLSTM + PaPs of" in message
    assert ".." not in message
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    )  # KB; the network would take 900 MB
    build_network(SMALL)  # nothing of the bound stays behind that counts on


def test_numbers_of_another_network_are_refused_by_their_header_alone(folder, monkeypatch):
    save_file({"huge": torch.zeros(1000, 1000)}, folder / NUMBERS)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert "1 unexpected (huge)" in refused(folder)


def test_the_day_of_the_year_is_right_in_a_season_of_another_year():
    config = replace(SMALL, dates="day_of_year")
    weights = Weights(
        WeightsCard(config, NORMALISATION, TABLE, "2017-10-15"), build_network(config).state_dict()
    )
    days = torch.tensor([[0, 77, 78]])  # 15 October, 31 December, 1 January
    for model, expected in (
        (weights.network(), [[288, 365, 1]]),
        (weights.network(date(2020, 10, 15)), [[289, 366, 1]]),
    ):
        assert (
            day_of_year(days, model.temporal_encoder.date_encoder.reference_date).tolist()
            == expected
        )


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_ends_in_anything_but_one_line(folder, data):
    """A byte changed, or the end cut off, in either file: it loads, or it is refused in one
    line.
    """
    path = folder / data.draw(st.sampled_from([CARD, NUMBERS]))
    content = path.read_bytes()
    position = data.draw(st.integers(0, min(len(content) - 1, 4000)))
    cut = data.draw(st.booleans())
    changed = content[:position] + (
        b"" if cut else bytes([data.draw(st.integers(0, 255))]) + content[position + 1 :]
    )
    try:
        path.write_bytes(changed)
        load_weights(folder)
    except WeightsError as error:
        assert "\n" not in str(error)  # noqa: PT017 (loading may also succeed)
    finally:
        path.write_bytes(content)


def test_a_card_must_fit_its_network():
    with pytest.raises(
        WeightsError,
        match=r"10 bands and 20 classes, but there are 2 bands \(B04, B08\) and the 4 classes of four",
    ):
        WeightsCard(UtaeConfig(), NORMALISATION, TABLE)


def test_a_card_with_an_empty_normalisation_is_refused(folder):
    card = json.loads((folder / CARD).read_text())
    for empty in ([], {}):
        (folder / CARD).write_text(json.dumps({**card, "normalisation": empty}))
        with pytest.raises(WeightsError, match="card"):
            load_weights(folder)
