"""The page of the check on a GPU: what was run, whether it holds, what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

RESULTS = Path(__file__).parent / "results"
_TEMPLATE = Path(__file__).with_name("template.md")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "gpu.md"

Records = Mapping[str, Mapping[str, Any]]
_NOT_REPEATABLE = (
    "Two plain trainings differed in this run already, because fused attention was not deterministic, so "
    "that bits could not be compared here; the tests at the head of this page compare them."
)
_GIB = 2**30
_H100_FLOPS, _BUSY = 989e12, 0.3
_COUNTED = (
    "*A counted pass* is what one forward-backward pass of a measurement, as the budget counts it, took in "
    "steps."
)
_SHORT = (
    "So few steps are mostly the opening: what is measured then is paid back over some hundred steps more, "
    "so that the whole run here says what a beginning costs, and not what a long run does."
)
_HOST_BOUND = (
    "This step is bound by the host that launches its kernels (the GPU does less than three tenths of what "
    "it can): whatever the host does besides shows in full, and a half of a batch takes as long as the whole."
)


def write_page(results: Path, page: Path) -> None:
    """Write the page of the results that there are.

    Args:
        results: Their folder.
        page: The page.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(read_records(results)), encoding="utf-8")


def read_records(results: Path) -> dict[str, Any]:
    """Return the results by part.

    Args:
        results: Their folder.
    """
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json")))
    return {record["part"]: record for record in found}


def render(records: Records) -> str:
    """Return the page: the sections of the template whose part has a result.

    Args:
        records: The results by part.
    """
    head, *sections = _TEMPLATE.read_text(encoding="utf-8").split("\n## ")
    page = [head.format(machines=_machines(records), verdicts=_verdicts(records))]
    for section in sections:
        title, _, body = section.partition("\n<!-- ")
        name, _, text = body.partition(" -->\n")
        result = records.get(name, {}).get("result")
        if name == "left out":
            page += [_unfinished(records), f"## {title}\n{text}"]
        elif result:
            page.append(f"## {title}\n{text}".format_map({**result, **_SECTIONS[name](result)}))
    text = "\n\n".join(part.strip() for part in page if part.strip()) + "\n"
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _machines(records: Records) -> str:
    lines = []
    machines = {json.dumps(one["machine"], sort_keys=True) for one in records.values() if "machine" in one}
    for text in sorted(machines):
        one = json.loads(text)
        memory = f", {one['memory'] / _GIB:.0f} GiB" if "memory" in one else ""
        cuda = f", CUDA {one['cuda']}" if "cuda" in one else ""
        lines.append(
            f"{one['device']}{memory}, torch {one['torch']}{cuda}, Python {one['python']}; {one['date']}."
        )
    return "\n".join(lines)


def _unfinished(records: Records) -> str:
    lines = [f"- `{name}`: {_last_line(one['failure'])}" for name, one in records.items() if "failure" in one]
    return "## Parts that were cut short\n\n" + "\n".join(lines) if lines else ""


def _verdicts(records: Records) -> str:
    rows = [*_check_verdicts(records), *_sync_verdicts(records), *_memory_verdicts(records)]
    return table(["what was run", "holds?", "how much of it"], rows) if rows else "Nothing was run."


_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "A watched training is the plain one bit by bit: AdamW foreach, fused, capturable; MLP, CNN, LSTM, "
        "attention; bfloat16 autocast",
        ("watched_training_is_the_plain",),
    ),
    ("The same under `torch.compile`", ("compiled_model",)),
    ("The same in float16 with a gradient scaler, guarded too", ("half_precision",)),
    ("The same with forward and backward in a CUDA graph", ("backward_in_a_cuda_graph",)),
    ("A whole step in a CUDA graph leaves guard and monitor out, and replays", ("step_in_a_cuda_graph",)),
    ("Fused attention is probed, by its math kernel", ("flash_attention_is_probed[around",)),
    (
        "Flash attention that `loss_fn` insists on is probed, by differences",
        ("flash_attention_is_probed[inside",),
    ),
    ("The step that is read from the optimizer is the one it makes", ("step_that_is_read",)),
    (
        "Eigenvalues and stability ratios are those of a processor in float64",
        ("eigenvalue_is_that", "stability_ratio_is_that"),
    ),
    ("In mini-batches a guard with `wait=False` never waits between its secants", ("may_be_late",)),
    (
        "A guard that acts does what it does on a processor; idle or measuring it changes nothing",
        ("guard_that_acts", "idle_guard", "guard_that_measures"),
    ),
    ("The noise of mini-batches is measured in bfloat16", ("noise_of_mini",)),
    ("A rewind puts a training back bit by bit", ("rewind",)),
    ("A probe gives its memory back", ("probe_takes_the_memory",)),
)


def _check_verdicts(records: Records) -> list[list[str]]:
    tests = records.get("checks", {}).get("result", {}).get("tests", [])
    rows = []
    for words, names in _GROUPS:
        own = [
            one for one in tests if any(name in one["name"] for name in names) and one["outcome"] != "skipped"
        ]
        if not own and "output" in records.get("checks", {}).get("result", {}):
            rows.append([words, "not reached", "there was no time left"])
        if own:
            rows.append([words, *_share(sum(one["outcome"] == "passed" for one in own), len(own), "tests")])
    return rows


def _sync_verdicts(records: Records) -> list[list[str]]:
    rows = records.get("syncs", {}).get("result", {}).get("rows", [])
    quiet = [one for one in rows if one["watcher"].startswith("monitor")]
    if not quiet:
        return []
    passed = sum(one["refused"]["passed"] for one in quiet)
    tried = passed + sum(one["refused"]["raised"] for one in quiet)
    words = "A monitored step that logs nothing never waits for the device (a wait was made an error)"
    return [[words, *_share(passed, tried, "steps")]]


def _memory_verdicts(records: Records) -> list[list[str]]:
    rows = records.get("memory", {}).get("result", {}).get("rows", [])
    if not rows:
        return []
    rows_of = [["Without memory for a probe, training goes on", *_share(_went_on(rows), len(rows), "limits")]]
    if records["memory"]["result"]["repeatable"]:
        same = sum(one["same_bits"] for one in rows)
        rows_of.append(["… bit by bit as without a monitor", *_share(same, len(rows), "limits")])
    return rows_of


def _went_on(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(not one["training_ended"] for one in rows)


def _share(good: int, of: int, what: str) -> list[str]:
    return ["yes" if good == of else "**no**", f"{good} of {of} {what}"]


def _overhead(result: Mapping[str, Any]) -> dict[str, str]:
    counted = any("pass_in_steps" in one for one in result["rows"])
    rows = [
        [
            one["watcher"],
            _percent(one["steady"]) if _is_long(result) else "–",
            _percent(one["total"]),
            _percent(one["usual_block"]),
            *(
                ["–" if one["pass_in_steps"] is None else f"{one['pass_in_steps']:.1f} steps"]
                if counted
                else []
            ),
            _gib(one["memory"]),
            "–" if one["memory"] is None else f"{one['memory'] / result['memory']:.2f}",
        ]
        for one in result["rows"]
    ]
    head = ["watcher", "steady", "whole run", "usual block"]
    head += [*(["a counted pass"] if counted else []), "peak memory", "÷ plain"]
    return {
        "table": table(head, rows),
        "parameters": _millions(result["parameters"]),
        "plain_memory": _gib(result["memory"]),
        "counted": _COUNTED if counted else "",
        "short": "" if _is_long(result) else _SHORT + " ",
        "host": _HOST_BOUND if _utilization(result) < _BUSY else "",
    }


def _is_long(result: Mapping[str, Any]) -> bool:
    return bool(result["steps"] >= 2 * result["opening"])


def _utilization(result: Mapping[str, Any]) -> float:
    """Return the share of an H100's dense bfloat16 arithmetic that a plain step uses, attention left out."""
    return 6 * result["parameters"] * result["tokens_per_second"] / _H100_FLOPS


def _products(result: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            _millions(one["parameters"]),
            f"{one['gradient_ms']:.1f} ms",
            _over(one, "double_backward", "ms"),
            _over(one, "double_backward", "memory"),
            _over(one, "differences", "ms"),
            _over(one, "differences", "memory"),
            "–" if one.get("apart") is None else f"{one['apart']:.1%}",
        ]
        for one in result["rows"]
    ]
    head = [
        "parameters",
        "gradient",
        "double backward ÷ gradient",
        "its peak memory ÷ gradient's",
        "differences ÷ gradient",
        "their peak memory ÷ gradient's",
        "the two apart",
    ]
    return {"table": table(head, rows), "tokens": result["rows"][0]["tokens"]}


def _over(row: Mapping[str, Any], name: str, what: str) -> str:
    if f"{name}_failed" in row:
        return "does not fit"
    value, gradient = row.get(f"{name}_{what}"), row.get(f"gradient_{what}")
    return "–" if not value or not gradient else f"{value / gradient:.1f}"


def _syncs(result: Mapping[str, Any]) -> dict[str, str]:
    rows = [
        [
            one["optimizer"],
            one["watcher"],
            f"{one['steps_without']} of {one['steps']}",
            f"{one['every_step']:.0f}",
            f"{one['logged_step']}",
            "–" if one["probe_step"] is None else f"{one['probe_step']}",
            f"{one['refused']['passed']} of {one['refused']['passed'] + one['refused']['raised']}",
        ]
        for one in result["rows"]
    ]
    head = [
        "AdamW",
        "watcher",
        "steps without a wait",
        "usual step",
        "logged step, at most",
        "with a probe, at most",
        "passed where a wait is an error",
    ]
    return {"table": table(head, rows)}


def _memory(result: Mapping[str, Any]) -> dict[str, str]:
    if not result["rows"]:
        return {"table": result.get("note", ""), "step": "–", "bits": ""}
    rows = [
        [
            f"{one['factor']:g} × a step's peak",
            "yes" if not one["training_ended"] else f"**no**: {one['training_ended']}",
            _same_bits(one, result),
            f"{one['probes']} made, {one['failed']} left out",
            f"{one['left_behind'] / result['weights']:.1f} × the weights",
            "; ".join(_short_message(message) for message in one["messages"]) or "–",
        ]
        for one in result["rows"]
    ]
    head = [
        "memory",
        "training went on",
        "same bits",
        "probes",
        "most that one left allocated",
        "what the log says",
    ]
    return {
        "table": table(head, rows),
        "step": _gib(result["step_peak"]),
        "bits": "" if result["repeatable"] else _NOT_REPEATABLE,
    }


def _same_bits(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if not result["repeatable"]:
        return "–"
    return "yes" if row["same_bits"] else "**no**"


def _llama(result: Mapping[str, Any]) -> dict[str, str]:
    rows = [
        [
            name,
            str(one["steps"]),
            f"{one['ms']:.0f} ms",
            _gib(one["memory"]),
            f"{one['losses'][0]:.2f} → {_mean(one['losses'][-20:]):.2f}",
            f"{len(one['spikes_1.2'])}, {len(one['spikes_3'])}",
            str(len(one["alarms"])),
            str(one["actions"]),
        ]
        for name, one in result["runs"].items()
    ]
    head = [
        "run",
        "steps",
        "a step",
        "peak memory",
        "loss",
        "spikes above 1.2 ×, 3 ×",
        "alarms",
        "actions of the guard",
    ]
    both = "Watched by a monitor as it comes, and once more with a guard."
    alone = "Watched by a monitor as it comes; for the same with a guard there was no time left."
    return {
        "table": table(head, rows),
        "parameters": _millions(result["parameters"]),
        "runs_in_words": both if "guarded" in result["runs"] else alone,
    }


def _checks(result: Mapping[str, Any]) -> dict[str, str]:
    tests = result.get("tests", [])
    failed = [one for one in tests if one["outcome"] in ("failure", "error")]
    skipped = sum(one["outcome"] == "skipped" for one in tests)
    passed = len(tests) - len(failed) - skipped
    lines = [f"`tests/test_cuda.py`: {passed} passed, {len(failed)} failed, {skipped} skipped."]
    lines += [f"- `{one['name']}`: {_last_line(one.get('message', ''))}" for one in failed]
    return {"table": "\n".join(lines)}


_SECTIONS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "overhead": _overhead,
    "products": _products,
    "syncs": _syncs,
    "memory": _memory,
    "llama": _llama,
    "checks": _checks,
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _short_message(message: str) -> str:
    short = message.partition(". A probe")[0].partition(". GPU")[0]
    return short.replace("|", "/")[:200]


def _last_line(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or [""]
    return lines[-1].replace("|", "/")[:300]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}"


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / _GIB:.1f} GiB"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f} M" if count >= 1e6 else f"{count:,}"
