"""Settings from the command line: converted by the type of the field, refused with advice."""

import pytest

from foreshock.lab.reproduction.experiments import EXPERIMENTS
from foreshock.lab.reproduction.settings import with_settings

LLM = EXPERIMENTS["llm"].scales["cpu"]


def test_values_are_converted_by_the_type_of_the_field():
    changed = with_settings(
        LLM,
        ["steps=7", "learning_rate=1e-4", "shorter=0.9,0.99", "sequences=none", "text=a.txt", "beta2=0.9999"],
    )
    assert (changed.steps, changed.learning_rate, changed.shorter) == (7, 1e-4, (0.9, 0.99))
    assert (changed.sequences, changed.text, changed.beta2) == (None, "a.txt", 0.9999)
    assert with_settings(LLM, ["sequences=64"]).sequences == 64
    assert with_settings(LLM, []) == LLM


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "'steps' is no assignment; write key=value"),
        ("stepz=3", "no setting 'stepz'; there are steps, learning_rate, beta1"),
        ("steps=many", "steps is 'many'; it must be a whole number"),
        ("steps=1.5", "steps is '1.5'; it must be a whole number"),
        ("steps=True", "steps is 'True'; it must be a whole number"),
        ("learning_rate=fast", "learning_rate is 'fast'; it must be a number"),
        ("shorter=0.9,x", "shorter is '0.9,x'; it must be a list of a number with commas between"),
        ("sequences=few", "sequences is 'few'; it must be a whole number or none"),
        ("learning_rate=-1", "learning_rate must be positive"),
        ("shorter=0.9999", "values of β₂ below beta2"),
        ("steps=0", "steps must be an integer of at least 1"),
        ("beta1=1", "betas must be two numbers"),
    ],
)
def test_what_is_impossible_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        with_settings(LLM, [text])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_refuses_no_steps(name):
    with pytest.raises(ValueError, match="steps"):
        with_settings(EXPERIMENTS[name].scales["cpu"], ["steps=0"])
