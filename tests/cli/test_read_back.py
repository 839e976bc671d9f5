"""Whatever a person or a team's code writes is refused at once, with the remedy, or comes back as it was from everything that reads it."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lastgood import errors, release
from lastgood.bundle import archive, environment, manifest, store
from lastgood.gates import base
from lastgood.layers import base as base_
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.ledger import Ledger
from lastgood.paging import once
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import plain
from lastgood.testing import projects
from tests import test_limits
from tests.cli.conftest import Done, Run

A = "sha256:" + "a" * 64
SLOW = hypothesis.settings(deadline=None, max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))


class Level(enum.IntEnum):
    """A number to Python, and an object of its own."""

    HIGH = 3


# --- what is tried -----------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    """Lists within each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


PLAIN_TEXTS = ["", " ", "a\nb\r\n\x1b[31m", "\u202e\u200b\ufeff", "\x85\u2028", "é語🙂", "- a: [b]", "null", "1e5", "~", "x" * 3000]
BROKEN_TEXTS = ["a\0b", "\ud800", "a\udfff"]
TEXTS = st.one_of(st.sampled_from(PLAIN_TEXTS + BROKEN_TEXTS), st.text(max_size=20), st.text(st.characters(), max_size=5))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53 - 1, 2**53, -(2**53), 2**64, 10**4000, Level.HIGH]),
    st.floats(),
    st.sampled_from([2.0**53, 1e16, 1.2e18, 1e20, 999999999999999983222.0, 1e21, 1e-7, 5e-324, 1.7976931348623157e308]),
    TEXTS,
    st.sampled_from([np.float64(0.5), np.float64(np.nan), np.float32(0.5), np.int64(3), np.bool_(True), np.array([1.0])]),
    st.sampled_from([decimal.Decimal(1), datetime.date(2020, 1, 1), b"a", {1}, object()]),
    st.builds(nested, st.sampled_from([60, 64, 900])),
    st.builds(endless),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.integers(0, 3) | TEXTS, inner, max_size=3)
)
FACTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def as_lists(value: Any) -> Any:
    """*value* with lists for tuples, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: as_lists(one) for name, one in value.items()}
    return [as_lists(one) for one in value] if isinstance(value, list | tuple) else value


def refused(call: Callable[[], object]) -> bool:
    """Whether *call* refuses what it is given, as everything must: exit code 2, and a remedy."""
    try:
        call()
    except errors.UsageError as error:
        told, code = str(error), error.exit_code
    else:
        return False
    assert code == 2
    assert "; " in told, told
    assert len(told) < 20_000, "the value itself is not repeated"
    return True


def is_stored(texts: Mapping[str, str]) -> None:
    """No stored text holds what Postgres takes for no text, nor, in JSON, for no JSON."""
    for text in texts.values():
        assert "\0" not in text
        assert "\\u0000" not in text
        text.encode()


@pytest.fixture
def ctx(settings: Settings) -> Iterator[release.Context]:
    """A project's ledger and store."""
    with projects.opened(settings) as opened:
        yield opened


# --- bundles and what is found out about them --------------------------------------------------------------


def parts_of(ctx: release.Context, meta: Mapping[str, Any], **changed: Any) -> list[manifest.Part]:
    """The parts of a bundle whose model has *meta*; *changed* are fields of the model part."""
    work = ctx.settings.home / "handmade"
    if not work.exists():
        work.mkdir(parents=True)
        (work / "model.json").write_text("0.5")
        schema.freeze(ctx.settings.services / "toy", work / "config")
    env = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    model = ctx.store.put(work / "model.json")
    entry = {"digest": model.digest, "size": model.size, "media_type": "application/json", "uri": model.uri, "meta": meta, **changed}
    return [
        manifest.Part(name="model", **entry),
        store.part(ctx.store.put(work / "config"), name="config", media_type="x/y", meta={}),
        store.part(ctx.store.put_bytes(env, name="environment.json"), name="environment", media_type="x/y", meta={}),
    ]


def register(ctx: release.Context, meta: Mapping[str, Any], provenance: Mapping[str, Any], **changed: Any) -> str:
    """Register a bundle of such parts without trying it; its id."""
    made = manifest.bundle_of("toy", *parts_of(ctx, meta, **changed))
    release.register(ctx, made, provenance=provenance, actor="t", now=5.0, untried=True)
    return made.id


def test_what_is_said_of_a_bundle_comes_back_or_is_refused(
    ctx: release.Context,
    run: Run,
    tmp_path: Path,
) -> None:
    """Meta and provenance: from the ledger, from the manifest in the store, from an export that is imported elsewhere, from `show`."""
    there = projects.project(tmp_path / "there")
    taken: list[str] = []

    def seen(meta: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        if refused(lambda: taken.append(register(ctx, meta, provenance))):
            assert ctx.ledger.bundles("toy", limit=1000) == [] or len(ctx.ledger.bundles("toy", limit=1000)) == len(set(taken))
            return
        row = ctx.ledger.bundle_row(taken[-1])
        assert dict(row.bundle.parts["model"].meta) == as_lists(meta)
        if taken.count(taken[-1]) == 1:  # what was registered before keeps the provenance that it had
            assert {name: one for name, one in row.provenance.items() if name != "trial"} == as_lists(
                {name: one for name, one in provenance.items() if name != "trial"}
            )
        out = archive.export(row, store=ctx.store, keys=ctx.settings.keys, out=tmp_path / "a.tar")
        with projects.opened(there) as other:
            trust = frozenset({audit_key(ctx)})
            found, facts = archive.import_(out, store=other.store, keys=other.settings.keys, trust=trust)
            assert (found, facts) == (row.bundle, row.provenance)
            release.register(other, found, provenance=facts, actor="t", now=6.0, untried=True)
            assert other.ledger.bundle(found.id) == found

    hypothesis.example(meta={"flops": 1.2e18}, provenance={"flops": 2.0**60})(given(meta=FACTS, provenance=FACTS)(SLOW(seen)))()
    assert taken
    for digest in dict.fromkeys(taken):
        row = ctx.ledger.bundle_row(digest)
        shown = run("show", "toy", digest, "--json").json
        assert (shown["manifest"], shown["provenance"]) == (row.bundle.manifest(), row.provenance)
        sane(run("show", "toy", digest))
    sane(run("bundle", "list", "toy", "--limit", "1000"))
    assert run("audit", "verify", "toy").code == 0


def audit_key(ctx: release.Context) -> str:
    """The fingerprint that signs exports here."""
    from lastgood.system import signing

    return signing.public_fingerprint(signing.load_public(ctx.settings.keys))


def sane(done: Done) -> None:
    """It ended well, and said so in text that steers no terminal."""
    assert done.code == 0, done
    assert all(line.isprintable() for line in done.out.split("\n"))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": True}, {"size": 1.5}, {"uri": None}, {"uri": 5}, {"media_type": None}, {"media_type": "a\0"}, {"uri": "\ud800"}, {"meta": None},
        {"meta": {"llms": "gpt"}}, {"meta": {"llms": ["gpt"]}}, {"meta": {"x": "y" * (plain.MAX_BYTES + 1)}},
    ],
    ids=lambda changed: ascii(changed)[:40],
)  # fmt: skip
def test_a_part_that_no_manifest_could_give_back_is_refused(ctx: release.Context, changed: dict[str, Any]) -> None:
    """Made by hand, with fields of other kinds; or larger than a bundle file may say."""
    assert refused(lambda: register(ctx, changed.get("meta", {}), {}, **{k: v for k, v in changed.items() if k != "meta"}))
    assert ctx.ledger.bundles("toy") == []


def test_a_refusal_comes_before_the_bundle_is_tried(ctx: release.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying may take a minute."""
    monkeypatch.setattr("lastgood.release.trial.run", lambda *_, **__: pytest.fail("tried"))
    made = manifest.bundle_of("toy", *parts_of(ctx, {}))
    for provenance, actor, now in (({"a": float("nan")}, "t", 5.0), ({}, "\0", 5.0), ({}, "t", float("nan"))):
        with pytest.raises(errors.UsageError):
            release.register(ctx, made, provenance=provenance, actor=actor, now=now)


REPORTS = st.one_of(
    FACTS,
    st.fixed_dictionaries({"metrics": st.dictionaries(st.sampled_from(["auc", "loss"]), SCALARS) | SCALARS}),
    st.fixed_dictionaries({"status": SCALARS, "why": SCALARS, "ends_at": SCALARS}),
    SCALARS,
)
KINDS = st.sampled_from(["offline", "team", "liveness", "drift-decision", "a\0", ""])


def test_what_is_found_out_comes_back_or_is_refused(ctx: release.Context, run: Run) -> None:
    """A report of any kind; and a promotion that looks at its metrics decides, whatever they are."""
    file = ctx.settings.services / "toy" / schema.FILE
    file.write_text(file.read_text() + "evaluation: {floors: {auc: 0.5}, ceilings: {loss: 1}}\n")
    digest = projects.build(ctx, 1.0)
    kept: list[Any] = []
    moments = itertools.count(10)

    def seen(kind: str, report: Any) -> None:
        if refused(lambda: ctx.ledger.evaluate(digest, kind=kind, report=report, actor="t", now=float(next(moments)))):
            assert len(ctx.ledger.evaluations(digest)) == len(kept)
            return
        kept.append(as_lists(report))
        assert ctx.ledger.evaluations(digest)[-1].report == kept[-1]
        with contextlib.suppress(errors.NotAllowed):
            release.plan_propose(ctx, ctx.ledger.state("toy"), digest)

    hypothesis.example(kind="offline", report={"metrics": {"auc": None}})(given(kind=KINDS, report=REPORTS)(SLOW(seen)))()
    assert [one["report"] for one in run("show", "toy", digest, "--json").json["evaluations"]] == kept
    sane(run("show", "toy", digest))
    assert run("audit", "verify", "toy").code == 0


def test_metrics_that_an_older_release_took_are_none(ctx: release.Context) -> None:
    """They stand in the ledger; a promotion says that nothing was measured."""
    limits = schema.Evaluation(floors={"auc": 0.5}, ceilings={"loss": 1})
    told = release.missed_limits(limits, {"auc": "x", "loss": [1]})  # type: ignore[dict-item]
    assert len(told) == 2
    assert all("not measured" in one for one in told)
    assert release.missed_limits(limits, {"auc": 1, "loss": 0.5}) == ()


# --- reasons, actors, notes --------------------------------------------------------------------------------


def test_reasons_actors_and_notes_come_back_or_are_refused(ctx: release.Context, run: Run) -> None:
    """Of every verb that keeps one; also of a step back, whose page says it."""
    first, second, third = projects.released(ctx, 1, 2, 3)
    ledger: Ledger = ctx.ledger
    told: dict[int, tuple[str, str]] = {}

    def say(verb: Callable[..., release.Committed], *args: Any, reason: Any, actor: Any, **more: Any) -> None:
        before = ledger.newest("toy")
        done: list[release.Committed] = []
        if refused(lambda: done.append(verb(ctx, "toy", *args, release.Request(actor=actor, reason=reason), **more))):
            assert ledger.newest("toy") == before
            return
        number = done[0].revision.number
        told[number] = (reason, actor)
        assert (done[0].revision.reason, done[0].revision.actor) == (reason, actor)
        found = ledger.revision("toy", number)
        assert (found.reason, found.actor) == (reason, actor)

    def seen(reason: Any, actor: Any, body: Any) -> None:
        say(release.hold, reason=reason, actor=actor)
        if (held := ledger.state("toy").hold) is not None:
            assert (held.reason, held.actor) == told[ledger.newest("toy")]
            say(release.release_hold, reason=reason, actor=actor)
        say(release.condemn, first, kind="quarantined", reason=reason, actor=actor)
        if (mark := ledger.state("toy", about=(first,)).marks.get(first)) is not None:
            assert mark.reason == told[ledger.newest("toy")][0]
            say(release.lift, first, reason=reason, actor=actor)
        target = second if ledger.state("toy").stable == third else third
        if target in ledger.state("toy", about=(target,)).marks:
            release.lift(ctx, "toy", target, release.Request(actor="t", reason="again"))
        say(release.roll_back, reason=reason, actor=actor, to=target)
        if not refused(lambda: ledger.note("toy", kind="team", body=body, actor="t", now=5.0)):
            assert ledger.notes("toy", kind="team")[-1] == as_lists(body)

    words = TEXTS | st.sampled_from([None, 5, b"a"])
    hypothesis.example(reason="x" * 1_000_000, actor="é\n\u202e", body={})(
        given(reason=words, actor=words, body=FACTS | SCALARS)(SLOW(seen))
    )()
    assert told
    revisions = {one["revision"]: one for one in run("history", "toy", "--limit", "1000", "--json").json["revisions"]}
    assert {number: (revisions[number]["reason"], revisions[number]["actor"]) for number in told} == told
    assert {number: said for number, said in told.items() if number == ledger.newest("toy")}.items() <= {
        (last := run("status", "toy", "--json").json["last"])["revision"]: (last["reason"], last["actor"])
    }.items()
    for page in ledger.pages("toy", limit=1000):
        assert page.body["reason"] == told[page.revision][0]
    for verb in (["status", "toy"], ["history", "toy", "--limit", "1000"], ["audit", "verify", "toy"]):
        sane(run(*verb))
    for line in run("audit", "export", "toy").out.splitlines():
        is_stored({"line": line.replace("\\\\", "")})


def test_nobody_writes_a_line_that_passes_for_ours(ctx: release.Context, run: Run) -> None:
    """A reason of several lines stands in one, wherever people read it."""
    forged = "x\n  stable     000000000000\n  ! everything is fine"
    first, second = projects.released(ctx, 1, 2)
    third = register(ctx, {"note": forged}, {"note": forged})
    assert run("hold", "toy", "--reason", forged, "--actor", forged).code == 0
    assert run("release-hold", "toy", "--reason", forged).code == 0
    back = run("rollback", "toy", first, "--yes", "--no-wait", "--reason", forged, "--actor", forged)
    assert back.code in (0, 6), back
    assert run("hold", "toy", "--reason", forged, "--actor", forged).code == 0
    told = [
        back,
        *(
            run(*line)
            for line in (["status", "toy"], ["history", "toy"], ["show", "toy", second], ["show", "toy", third], ["plan", "toy", third])
        ),
    ]
    for done in told:
        assert not [line for line in done.out.split("\n") if line.lstrip().startswith(("stable     000", "! everything"))], done.out


# --- service.yaml ------------------------------------------------------------------------------------------

OPTION_LINES = [
    "a: 2020-01-01", "a: 2020-01-01T00:00:00Z", "a: .nan", "a: -.inf", "a: !!set {x, y}", "a: !!binary AAEC/w==", "a: {1: 2}", "a: {true: 2}", "a: {null: 1}",
    "1: 2", "a: 99999999999999999999", "a: 9007199254740993", "a: 1e5", "a: 1.0e+20", "a: -0.0", 'a: "x\\0y"', 'a: "\\ud800"', 'a: "\\N\\L\\P\\_ \\ufeff"',
    "a: &x [*x]", "a: " + "[" * 60 + "]" * 60, "a: " + "[" * 200 + "]" * 200, "a: yes", "a: 0o17", "a: 1_000", "a: 12:30:45", "a: ~", "a: ''",
]  # fmt: skip
TEXT_KEYS = ("owner", "description", "traffic.user_header", "traffic.user_cookie", "gates", "floors", "code", "options")


def described(key: str, text: str) -> dict[str, Any]:
    """Settings of a service in which *text* stands at *key*."""
    value: dict[str, Any] = {"schema": schema.SCHEMA, "service": "toy", "tier": "real-time-api", "owner": "t", "traffic": {"port": 8399}}
    group, _, name = key.rpartition(".")
    changed = {
        "gates": {"gates": {text: {"metric": "oom_kills"}}},
        "floors": {"evaluation": {"floors": {text: 0.5}, "ceilings": {text: 1.2e18}}},
        "code": {"code": ["runtime.py", text]},
        "options": {"options": {text: text}},
    }.get(key, {name: text} if not group else {group: {"port": 8399, name: text}})
    return value | changed


def frozen(folder: Path, out: Path, **more: Any) -> schema.Service | None:
    """What a worker reads of the frozen settings; None if they are refused, and then nothing is left behind."""
    if refused(lambda: schema.freeze(folder, out, **more)):
        assert not out.exists()
        return None
    return schema.parse_frozen((out / schema.FILE).read_text("utf-8"), where="frozen")


def test_every_text_of_service_yaml_comes_back_or_is_refused(settings: Settings, tmp_path: Path) -> None:
    """And the proxy takes what is kept."""
    folder = settings.services / "toy"
    numbers = itertools.count()

    def seen(key: str, text: str) -> None:
        text = text.replace("/", "-")[:200] if key == "code" else text
        value = described(key, text)
        (folder / schema.FILE).write_text(yaml.safe_dump(value))
        found = frozen(folder, tmp_path / str(next(numbers)))
        if found is None:
            assert not text.isprintable() or key in ("traffic.user_header", "traffic.user_cookie", "gates", "code") or not text
            return
        again = schema.load(folder)
        assert found.model_copy(update={"release": None}) == again.model_copy(update={"release": None})
        assert found.chain == again.chain
        read = found.model_dump(mode="json", by_alias=True)
        for name, one in value.items():
            if name in ("owner", "description", "options", "evaluation"):
                assert read[name] == one if name != "evaluation" else one.items() <= read[name].items()
        assert text in found.gates or key != "gates"
        assert "traffic" not in key or schema.HTTP_NAME.fullmatch(text)

    hypothesis.example(key="owner", text="x" * 1_000_000)(given(key=st.sampled_from(TEXT_KEYS), text=TEXTS)(SLOW(seen)))()


NUMBERS = [
    setting for path, setting in test_limits.FOUND.items() if path.startswith("service:") and path.count(".") == 1 and "drift" not in path
]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda one: one.path)
def test_every_number_of_service_yaml_comes_back_or_is_refused(settings: Settings, tmp_path: Path, setting: test_limits.Setting) -> None:
    """Small, large and odd; as a number and as text. What the frozen settings say is what the file said."""
    folder = settings.services / "toy"
    group, name = setting.path.removeprefix("service:").split(".")
    odd: list[Any] = [
        0,
        1,
        -1,
        0.1,
        1e-9,
        1e-300,
        5e-324,
        1.5,
        3,
        100,
        1e5,
        2**53,
        2.0**53,
        1e20,
        10**30,
        float("nan"),
        float("inf"),
        "7",
        "x",
        True,
        None,
    ]
    kept = 0
    for number, value in enumerate([*odd, setting.largest]):
        written = described("owner", "t")
        written[group] = {"port": 8399, name: value} if group == "traffic" else {name: {"a": value} if group == "evaluation" else value}
        (folder / schema.FILE).write_text(yaml.safe_dump(written))
        found = frozen(folder, tmp_path / str(number))
        if found is not None:
            kept += 1
            assert getattr(found, group) == getattr(schema.load(folder), group) or group == "release"
            read = getattr(getattr(found, group), name)
            read = read["a"] if group == "evaluation" else read
            assert read == (float(value) if isinstance(read, float) else int(value)), "a field of fractions takes the nearest"
            envoy_config.plan(base_.Desired(service=found, revision=1, stable=A, weights={A: 100.0}), ready={}, now={}, token="t")
    assert kept, "some number is taken"


@pytest.mark.parametrize("line", OPTION_LINES)
def test_options_of_every_kind_of_yaml_come_back_or_are_refused(
    settings: Settings,
    tmp_path: Path,
    line: str,
) -> None:
    """A date that became a text in the bundle would be another one for the code that it was tried with."""
    folder = settings.services / "toy"
    file = folder / schema.FILE
    file.write_text(file.read_text() + f"options: {{{line}}}\n")
    found = frozen(folder, tmp_path / "out")
    if found is not None:
        assert json.dumps(found.options) == json.dumps(schema.load(folder).options)


def test_options_and_overlays_given_in_code_come_back_or_are_refused(settings: Settings, tmp_path: Path) -> None:
    """As a build lays them over the file."""
    numbers = itertools.count()

    def seen(options: Any, overlay: Any) -> None:
        found = frozen(settings.services / "toy", tmp_path / str(next(numbers)), options=options, overlay=overlay)
        if found is not None:
            assert found.options == {**as_lists(overlay or {}).get("options", {}), **as_lists(options or {})}

    overlays = st.one_of(
        FACTS,
        st.fixed_dictionaries({"options": FACTS}),
        st.fixed_dictionaries({"release": st.fixed_dictionaries({"bake_s": SCALARS, "strategy": st.just(())})}),
        st.fixed_dictionaries({"service": TEXTS}),
        st.none(),
    )
    hypothesis.example(options=None, overlay={"release": {"bake_s": np.float64(5), "strategy": ()}})(
        given(options=FACTS | st.none(), overlay=overlays)(SLOW(seen))
    )()


def test_settings_that_the_proxy_could_not_take_are_not_registered(ctx: release.Context) -> None:
    """In a config part that was not made by `freeze`."""
    parts = parts_of(ctx, {})
    config = ctx.settings.home / "handmade" / "config"
    text = (config / schema.FILE).read_text().replace("user_header: x-user-id", "user_header: x user")
    os.chmod(config / schema.FILE, 0o600)
    (config / schema.FILE).write_text(text)
    made = manifest.bundle_of("toy", parts[0], parts[2], store.part(ctx.store.put(config), name="config", media_type="x/y", meta={}))
    with pytest.raises(errors.UsageError, match=r"user_header 'x user' is not a valid HTTP header name"):
        release.register(ctx, made, provenance={}, actor="t", now=5.0, untried=True)


# --- what a program of ours found out ----------------------------------------------------------------------


def test_what_another_program_said_stands_in_no_way(ctx: release.Context) -> None:
    """What a probe was answered may become the reason of a step back, and what a provider said a page: both are kept, without what cannot be."""
    projects.released(ctx, 1, 2)
    seen = base.Observation(at=1.0, down=True, detail="HTTP Error 500: a\0b\ud800" + "x" * 5000)
    assert seen.detail.startswith("HTTP Error 500: a?b?x")
    assert len(seen.detail) == base.MAX_DETAIL
    assert base.observation(seen.to_json()) == seen
    evidence = {"verdicts": [{"why": seen.detail}]}
    done = release.roll_back(ctx, "toy", release.Request(actor="t", reason=seen.detail, automatic=True, evidence=evidence))
    assert ctx.ledger.revision("toy", done.revision.number).reason == seen.detail
    once.Notifier(ctx, "toy").once("k", "a\0\ud800", severity="info", body={"why": "\0", "figure": float("nan")}, now=5.0, note="team")
    page = next(one for one in ctx.ledger.pages("toy") if one.key == "k")
    assert (page.summary, page.body) == ("a??", {"why": "?", "figure": None})
    assert ctx.ledger.notes("toy", kind="team") == [{"key": "k", "why": "?", "figure": None}]


@given(value=VALUES)
@SLOW
def test_what_is_put_right_can_be_kept(value: Any) -> None:
    """Whatever JSON has a kind for; and what is right already stays as it is."""
    assert plain.mended(plain.mended({"\0": ["\ud800", float("inf"), (1,)]})) == {"?": ["?", None, [1]]}
    kept: list[Any] = []
    if not refused(lambda: kept.append(plain.tree({"a": value}, what="this"))):
        assert plain.mended(kept[0]) == kept[0]


# --- the rule itself ---------------------------------------------------------------------------------------


@given(value=FACTS)
@SLOW
def test_plain_is_what_canonical_json_gives_back(value: dict[Any, Any]) -> None:
    """Equal, also its largest numbers, which JSON writes without a point; and its bytes are the same again."""
    kept: list[dict[str, Any]] = []
    if refused(lambda: kept.append(plain.tree(value, what="this"))):
        return
    data = manifest.canonical(kept[0])
    again = json.loads(data, parse_int=plain.number)
    assert again == kept[0] == as_lists(value)
    assert manifest.canonical(again) == data
    is_stored({"data": data.decode()})


def test_a_file_that_unfolds_without_end_is_refused() -> None:
    """Ten lists of ten of the one before, and so on."""
    value: list[Any] = [1] * 10
    for _ in range(12):
        value = [value] * 10
    with pytest.raises(errors.UsageError, match="more than"):
        plain.tree({"a": value}, what="this")


def test_nothing_of_a_value_is_taken_over_by_reference() -> None:
    """What the caller changes later does not change what was checked."""
    inner = [1]
    kept = plain.tree({"a": inner}, what="this")
    inner.append(2)
    assert kept == {"a": [1]}
