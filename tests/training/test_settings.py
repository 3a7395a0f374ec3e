"""Settings are checked all at once, and say what the weights depend on."""

from __future__ import annotations

import dataclasses

import pytest

from formers.config import from_dict, replace, to_dict
from formers.errors import ConfigError
from formers.training.settings import FREE, LATER, RESTORED, TrainSettings


def test_every_wrong_setting_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainSettings(steps=0, lr=-1.0, batch_size=6, accumulate=4, min_lr_ratio=2.0, betas=(0.9, 1.0), warmup=-1)
    for name in ("steps is 0", "lr is -1.0", "not a multiple of accumulate 4", "min_lr_ratio", "betas", "warmup is -1"):
        assert name in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_rate_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ConfigError, match="lr is"):
        TrainSettings(lr=value)


def test_a_misspelled_setting_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match="weight_decay"):
        replace(TrainSettings(), weigth_decay=0.0)


def test_settings_survive_json():
    settings = TrainSettings(minutes=2, clip=None, schedule="wsd", betas=(0.8, 0.99))
    assert from_dict(TrainSettings, to_dict(settings)) == settings


def test_limit_batches_limits_steps_the_schedule_and_evaluations():
    settings = TrainSettings(steps=500, limit_batches=7, eval_batches=0)
    assert settings.total_steps == settings.learning_rate.total == settings.total_eval_batches == 7
    assert TrainSettings(steps=500, eval_batches=0).total_eval_batches == 0


def test_the_schedule_gets_every_setting_of_its_own():
    settings = TrainSettings(
        steps=50, lr=0.5, schedule="restarts", warmup=3, min_lr_ratio=0.25, decay_share=0.5, cycles=2
    )
    schedule = settings.learning_rate
    assert (schedule.name, schedule.peak, schedule.total, schedule.warmup) == ("restarts", 0.5, 50, 3)
    assert (schedule.floor_ratio, schedule.decay_share, schedule.cycles) == (0.25, 0.5, 2)


def test_what_weights_depend_on_leaves_out_only_what_they_do_not():
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    assert names >= FREE | RESTORED
    assert TrainSettings().of_the_weights().keys() == names - FREE - RESTORED - LATER.keys()
    masks = {"objective": "masked_token", "masking": "words", "masked_share": 0.2, "mean_span": 2.0, "target_len": 8}
    changed = TrainSettings(**masks, cycle_growth=2.0, flat_share=0.1, optimizer="adafactor", lr_factors=("gates=30",))
    assert changed.of_the_weights().keys() == names - FREE - RESTORED
