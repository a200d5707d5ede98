"""What is shipped beside the program fits it: unit, image, compose file, rules, dashboard, and the operator's page."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import tomllib
from collections import defaultdict
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from forecaster.clock import now_ms
from forecaster.config import Config, DaemonConfig
from forecaster.config_file import load_config
from forecaster.daemon.health_state import HealthState
from forecaster.daemon.prometheus import COUNTERS, GAUGES, HISTOGRAMS, KINDS, NAMES
from tests.builders import HOUR_MS, make_bars
from tests.cli import PROGRAM, forecaster

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "config"
UNIT = CONFIG / "systemd" / "forecaster.service"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((CONFIG / "prometheus" / "rules.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((CONFIG / "grafana" / "forecaster.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((CONFIG / "docker" / "compose.yaml").read_text(encoding="utf-8"))
SERVICE = load_config(CONFIG / "service.example.toml")
WORLDS = ROOT / "tests" / "prometheus_rules.yml"
AT = "/etc/forecaster/forecaster.toml"

HARDENING = (
    "NoNewPrivileges",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateUsers",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "LockPersonality",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
)


def directives():
    """What the unit says, name by name, each as often as it stands there."""
    found = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def understood(command):
    """Whether the command line has this command, with these options."""
    options = [word for word in command if word.startswith("--")]
    shown = forecaster(command[0], "--help", env={"COLUMNS": "200", "TERM": "dumb"})
    return shown.returncode == 0 and all(option in shown.stdout for option in options)


class TestUnit:
    """config/systemd/forecaster.service."""

    def test_starts_what_there_is(self):
        """The command, its configuration, and the folders are those of the example and of the page."""
        (start,) = directives()["ExecStart"]
        program, *command = shlex.split(start)

        assert program == "/opt/forecaster/bin/forecaster"
        assert f"python3 -m venv {Path(program).parents[1]}" in PAGE
        assert command == ["run", "--config", AT]
        assert understood(command)
        assert SERVICE.store.url.reveal() == f"sqlite:////var/lib/{directives()['StateDirectory'][0]}/ledger.db"
        assert SERVICE.model.compiled_folder.parent == Path("/var/cache", directives()["CacheDirectory"][0])

    def test_reports_readiness_and_of_progress(self):
        found = directives()

        assert found["Type"] == ["notify"]
        assert float(found["WatchdogSec"][0]) > 0
        assert found["Restart"] == ["always"]
        assert found["StartLimitIntervalSec"] == ["0"]

    def test_stops_and_reloads_as_the_service_does(self):
        """SIGTERM to the main process alone, with more time than draining takes; SIGHUP to reload."""
        found = directives()

        assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        assert found["KillMode"] == ["mixed"]
        assert float(found["TimeoutStopSec"][0]) >= 2 * DaemonConfig().drain_seconds

    def test_may_touch_little(self):
        found = directives()
        for name in HARDENING:
            assert found[name] == ["yes"], name

        assert found["User"] == ["forecaster"]
        assert found["ProtectSystem"] == ["strict"]
        assert found["CapabilityBoundingSet"] == [""]
        assert found["SystemCallFilter"] == ["@system-service", "~@privileged"]
        assert set(found["RestrictAddressFamilies"][0].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}

    def test_lets_torch_work(self):
        """Kernels that are generated as it runs need such memory, and compiled code is kept by /proc/cpuinfo."""
        assert not {"MemoryDenyWriteExecute", "ProcSubset"} & directives().keys()

    @pytest.mark.docs
    def test_is_exposed_as_little_as_the_page_says(self):
        """By systemd's own measure, which must be installed."""
        said = float(re.search(r"`systemd-analyze security` gives it (\d\.\d)", PAGE)[1])
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", UNIT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr
        assert float(re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)[1]) <= said


def instructions():
    """The instructions of the Dockerfile, as pairs, by stage."""
    text = (CONFIG / "docker" / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages = []
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest.strip()))
    return stages


class TestImage:
    """config/docker/Dockerfile; it is not built here."""

    def test_runs_as_no_one_special(self):
        served = dict(instructions()[-1])
        made = " ".join(rest for name, rest in instructions()[-1] if name == "RUN")

        assert served["USER"] == "10001:10001"
        assert "groupadd --gid 10001 forecaster" in made
        assert "useradd --uid 10001 --gid 10001" in made
        assert json.loads(served["VOLUME"]) == ["/var/lib/forecaster", "/var/cache/forecaster"]

    def test_runs_what_there_is(self):
        served = dict(instructions()[-1])
        check = json.loads(served["HEALTHCHECK"].partition("CMD ")[2])

        assert json.loads(served["ENTRYPOINT"]) == ["forecaster"]
        assert json.loads(served["CMD"]) == ["run", "--config", AT]
        assert check[0] == "forecaster"
        assert understood(check[1:])

    def test_is_made_of_files_that_are_let_in(self):
        """Each COPY finds its file, which the ignore file lets through; and nothing else is let through."""
        ignored = (CONFIG / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        let_in = {line[1:] for line in ignored if line.startswith("!")}
        copied = {
            word
            for name, rest in instructions()[0]
            if name == "COPY"
            for word in rest.split()[:-1]
            if not word.startswith("--")
        }

        assert "*" in ignored
        assert copied == let_in
        assert all((ROOT / name).exists() for name in copied)

    def test_has_the_versions_that_are_tested(self):
        """Each installation is held to constraints.txt, which names whatever is asked for."""
        commands = [rest for name, rest in instructions()[0] if name == "RUN"]
        installing = [line for command in commands for line in command.split("&&") if "pip install" in line]
        extras = re.search(r"'\.\[([\w,]+)\]'", installing[-1])[1].split(",")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = project["dependencies"] + [one for name in extras for one in project["optional-dependencies"][name]]
        pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)

        assert len(installing) == 2
        assert all("--constraint constraints.txt" in line for line in installing)
        assert {plain(re.match(r"[\w.-]+", one)[0]) for one in wanted} <= set(map(plain, pins))


def plain(name):
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class TestCompose:
    """config/docker/compose.yaml; it is not brought up here."""

    @pytest.mark.parametrize("name", COMPOSE["services"])
    def test_every_container_may_little(self, name):
        service = COMPOSE["services"][name]

        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
        assert "cap_add" not in service or name == "postgres"

    def test_the_service_has_what_it_writes_to(self):
        """Its two folders are volumes; and compiled code can be loaded from /tmp."""
        service = COMPOSE["services"]["forecaster"]
        targets = {one.split(":")[-1 if one.count(":") == 1 else -2] for one in service["volumes"]}
        (tmp,) = service["tmpfs"]

        assert targets == {"/etc/forecaster", "/var/lib/forecaster", "/var/cache/forecaster"}
        assert tmp.startswith("/tmp:")  # noqa: S108 - of the container
        assert "exec" in tmp.partition(":")[2].split(",")
        assert float(service["stop_grace_period"].removesuffix("s")) >= 2 * DaemonConfig().drain_seconds

    def test_the_service_is_asked_whether_it_is_alive(self):
        """Not whether it is ready: a standby would be ended."""
        _, program, *command = COMPOSE["services"]["forecaster"]["healthcheck"]["test"]

        assert program == "forecaster"
        assert "--alive" in command
        assert understood(command)

    def test_prometheus_reaches_loopback(self):
        """By a network that both share, and that neither of them takes along when it restarts."""
        shared = {COMPOSE["services"][name]["network_mode"] for name in ("forecaster", "prometheus")}
        source = yaml.safe_load((CONFIG / "grafana/provisioning/datasources/forecaster.yml").read_text())
        asked = yaml.safe_load((CONFIG / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]

        assert shared == {"service:loopback"}
        assert source["datasources"][0]["url"] == "http://loopback:9090"
        assert asked["static_configs"] == [{"targets": [f"{SERVICE.health.host}:{SERVICE.health.port}"]}]

    @pytest.mark.processes
    @pytest.mark.parametrize("content", [None, "", " \n"], ids=["unreadable", "empty", "blank"])
    def test_grafana_does_not_start_without_a_password(self, content, tmp_path):
        """Its own script would go on, and the password would be `admin`."""
        done = start_grafana(tmp_path, content)

        assert done.returncode == 1
        assert "expected a file with a password" in done.stderr
        assert "started" not in done.stdout

    @pytest.mark.processes
    def test_grafana_starts_with_a_password(self, tmp_path):
        done = start_grafana(tmp_path, "geheim\n")

        assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")

    def test_secrets_belong_to_who_reads_them(self):
        """One owner of all secrets; root of the PostgreSQL container may read the files of others."""
        grafana, postgres = (COMPOSE["services"][name] for name in ("grafana", "postgres"))

        assert grafana["user"] == dict(instructions()[-1])["USER"]
        assert "DAC_OVERRIDE" in postgres["cap_add"]
        assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{grafana['secrets'][0]}"

    def test_names_files_that_are_there(self):
        folder = CONFIG / "docker"
        named = [one.split(":")[0] for service in COMPOSE["services"].values() for one in service.get("volumes", [])]
        build = COMPOSE["services"]["forecaster"]["build"]

        assert (folder / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert all((folder / path).exists() for path in named if path.startswith(".."))
        assert {path for path in named if path[0] not in ".$"} == set(COMPOSE["volumes"])


def start_grafana(folder, password):
    """Run the start command of the Grafana container with a script in place of its own; None: no file."""
    script, file = folder / "run.sh", folder / "password"
    script.write_text("#!/bin/sh\necho started\n")
    script.chmod(0o755)
    if password is not None:
        file.write_text(password)
    *command, own = (part.replace("$$", "$") for part in COMPOSE["services"]["grafana"]["entrypoint"])
    assert own == "/run.sh"
    environment = os.environ | {"GF_SECURITY_ADMIN_PASSWORD__FILE": str(file)}
    return subprocess.run([*command, script], env=environment, capture_output=True, text=True, check=False)


LABELS = {name: set(labels) for name, (labels, _) in (COUNTERS | GAUGES).items()}
for histogram, (labels, _) in HISTOGRAMS.items():
    LABELS[f"{histogram}_bucket"] = {*labels, "le"}
    LABELS[f"{histogram}_sum"] = LABELS[f"{histogram}_count"] = set(labels)
OF_PROMETHEUS = {"job", "instance"}
FIRST_EVENTS = {
    "ForecasterAlertsFail": 1,
    "ForecasterBarsRevised": 1,
    "ForecasterBaselineFails": 1,
    "ForecasterDrift": 2,
    "ForecasterFallback": 1,
    "ForecasterMissed": 1,
    "ForecasterSchedulerFaults": 1,
}
"""Rules that one event sets off, and how many alerts come of one event of each counter of a new service."""
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [rule["expr"] for rule in RULES] + QUERIES


@pytest.fixture(scope="module")
def families():
    """What a service exposes that has just begun."""
    series = [{"exchange": "a", "symbol": "A/B", "timeframe": "1h", "file": "bars.csv"}]
    text = HealthState(Config.model_validate({"series": series})).metrics_text().decode()
    return list(text_string_to_metric_families(text))


@pytest.fixture(scope="module")
def exposed(families):
    """The samples' names that a service shows, and the labels of ours."""
    return {
        name for metric in families for name in (metric.name, *(sample.name for sample in metric.samples))
    } | LABELS.keys()


@pytest.fixture(scope="module")
def counted(families):
    """The samples of our counters."""
    counters = [metric for metric in families if metric.type == "counter" and metric.name.startswith("forecaster_")]
    return [sample for one in counters for sample in one.samples]


def test_every_counter_stands_at_zero_from_the_start(counted):
    """`increase` does not see the first event of a counter that did not exist before it."""
    assert {sample.name for sample in counted} == COUNTERS.keys()
    assert {sample.value for sample in counted} == {0}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(expression, exposed):
    """Each metric exists, each label of a selector is one of its own, each label of a grouping one of theirs."""
    metrics = set(re.findall(r"\b(?:forecaster|process|python)_\w+", re.sub(r'"[^"]*"', '""', expression)))
    groupings = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    grouped = {label.strip() for labels in groupings for label in labels.split(",")}

    assert metrics <= exposed
    assert grouped <= OF_PROMETHEUS.union(*(LABELS.get(name, set()) for name in metrics))
    for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)=?[=!]~?\"", selectors)) <= LABELS.get(name, set()) | OF_PROMETHEUS, name


def test_brackets_balance():
    for expression in EXPRESSIONS:
        left = re.sub(r"[^(){}\[\]]", "", re.sub(r'"[^"]*"', "", expression))
        while (fewer := re.sub(r"\(\)|\{\}|\[\]", "", left)) != left:
            left = fewer

        assert not left, expression


class TestRules:
    """config/prometheus/rules.yml."""

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
    def test_a_rule_leads_to_the_page(self, rule):
        """Its kind is a heading, under which the rule is named."""
        page, _, kind = rule["annotations"]["runbook_url"].partition("#")

        assert page == "docs/operations.md"
        assert kind in sections()
        assert kind == "overload" or rule["alert"] in sections()[kind]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]

    @pytest.mark.docs
    def test_promtool_tries_them(self):
        """In a world in order none fires, in one where everything is wrong each does; Prometheus must be installed."""
        command = ["promtool", "test", "rules", WORLDS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.docs
    def test_the_first_event_of_each_counter_is_reported(self, counted, tmp_path):
        """What a new service exposes, from 0 to 1 after an hour: each rule of single events fires."""
        labels = [",".join(f'{name}="{value}"' for name, value in one.labels.items()) for one in counted]
        fed = [f'{one.name}{{job="forecaster",{text}}}' for one, text in zip(counted, labels, strict=True)]
        asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "62m"}
        expected = [{"labels": f'{{alertname="{name}"}}', "value": count} for name, count in FIRST_EVENTS.items()]
        world = {
            "interval": "1m",
            "input_series": [{"series": one, "values": "0x60 1x60"} for one in fed],
            "promql_expr_test": [asked | {"exp_samples": expected}],
        }
        path = tmp_path / "first.yml"
        path.write_text(yaml.safe_dump({"rule_files": [str(CONFIG / "prometheus" / "rules.yml")], "tests": [world]}))
        command = ["promtool", "test", "rules", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_worlds_name_every_rule(self):
        """The first two worlds that promtool tries: both feed every metric, one expects no alert and one each."""
        tried = yaml.safe_load(WORLDS.read_text(encoding="utf-8"))["tests"][:2]
        fed = [{re.match(r"\w+", series["series"])[0] for series in world["input_series"]} for world in tried]
        fired = {re.search(r'"(\w+)"', one["labels"])[1] for one in tried[1]["promql_expr_test"][0]["exp_samples"]}
        asked = {name for rule in RULES for name in re.findall(r"\b(?:forecaster_\w+|process_\w+|up)\b", rule["expr"])}

        assert tried[0]["promql_expr_test"][0]["exp_samples"] == []
        assert fired == {rule["alert"] for rule in RULES}
        assert asked <= fed[0]
        assert asked <= fed[1]


class TestDashboard:
    """config/grafana/forecaster.json; no Grafana is here."""

    def test_shows_every_metric(self):
        shown = " ".join(QUERIES)

        assert [name for name in NAMES if name not in shown] == []

    def test_asks_the_source_that_is_chosen(self):
        variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))

        assert variables["datasource"]["type"] == "datasource"
        assert used - {"__rate_interval", "__all"} <= variables.keys()
        for panel in PANELS:
            assert all(one["datasource"]["uid"] == "${datasource}" for one in [panel, *panel["targets"]])

    def test_panels_have_places_of_their_own(self):
        places = set()
        for panel in DASHBOARD["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}

            assert not cells & places, panel["title"]
            assert at["x"] + at["w"] <= 24
            places |= cells

        assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def sections():
    """The sections of the operator's page, by the anchor of their heading."""
    parts = re.split(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    titles = [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in parts[1::2]]
    return dict(zip(titles, parts[2::2], strict=True))


def rows(anchor):
    """The first cells of a section's table."""
    return re.findall(r"^\| (`.+?) \|", sections()[anchor], re.MULTILINE)


class TestPage:
    """docs/operations.md."""

    def test_every_kind_of_alert_is_a_heading(self):
        assert set(KINDS) <= sections().keys()

    def test_links_lead_somewhere(self):
        for path, anchor in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", PAGE):
            assert not path or (ROOT / "docs" / path).exists(), path
            assert path or anchor in sections(), anchor
        for path in re.findall(r"`(config/[\w./]+)`", PAGE):
            assert (ROOT / path).exists(), path

    def test_every_metric_is_explained(self):
        """With its labels, and no other is."""
        said = dict(re.match(r"`(\w+)(?:\{([\w,]+)\})?`", row).groups() for row in rows("metrics"))
        labels = {name: set(one) for name, (one, _) in (COUNTERS | HISTOGRAMS | GAUGES).items()}

        assert {name: set((record or "").split(",")) - {""} for name, record in said.items()} == labels

    def test_every_event_is_explained(self):
        """What the program logs stands in the table, and the other way round."""
        calls = (
            call
            for path in ROOT.glob("forecaster/**/*.py")
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        )
        logged = {call.args[0].value for call in calls if getattr(call.func.value, "id", None) in ("_log", "log")}
        record = {name for row in rows("the-log") for name in re.findall(r"`([\w.]+)`", row)}

        assert record == logged

    @pytest.mark.docs
    def test_its_commands_run(self, tmp_path):
        """In order: those of the first sections beside a service that runs, those about the ledger behind its end."""
        beside, behind = PAGE.split("\n## Upgrade\n")
        environment = {"FORECASTER_CONFIG": str(write_service(tmp_path))}
        with service(environment, tmp_path) as running:
            for command in commands(beside, tmp_path):
                run(command, environment, tmp_path)
            running.send_signal(signal.SIGHUP)
            until(running, lambda: '"config.reloaded"' in (tmp_path / "log.jsonl").read_text(), tmp_path)
            until(running, lambda: says_ready(environment), tmp_path)
            running.send_signal(signal.SIGTERM)
            code = running.wait()
        for command in commands(behind, tmp_path):
            run(command, environment, tmp_path)

        assert code == 0
        assert (tmp_path / "forecaster.db").is_file()
        assert len(commands(beside, tmp_path)) >= 5
        assert len(commands(behind, tmp_path)) >= 5


def commands(text, folder):
    """The program's own lines of a text's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = (line.partition("#")[0].strip() for block in blocks for line in block.splitlines())
    return [
        shlex.split(line.replace("/var/backups", str(folder)))[1:] for line in lines if line.startswith("forecaster")
    ]


def run(command, environment, folder):
    """Run a command as an operator would, beside the service, which has a process of its own."""
    done = forecaster(*command, cwd=folder, env=environment)

    assert done.returncode == 0, (command, done.stdout, done.stderr)


def write_service(folder):
    """The example's [daemon], [health] and [alerts] around a series whose bars lie in a file, up to now."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    start = now_ms() // HOUR_MS * HOUR_MS - 96 * HOUR_MS
    make_bars(count=96, start=start).frame.to_csv(folder / "bars.csv")
    example = (CONFIG / "service.example.toml").read_text(encoding="utf-8")
    tables = example[example.index("[daemon]") :].replace("port = 9464", f"port = {port}")
    path = folder / "forecaster.toml"
    path.write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "bars.csv"\n'
        f'[model]\ncontext = 64\ncompile = "off"\n[store]\nurl = "sqlite:///{folder}/ledger.db"\n{tables}'
    )
    return path


@contextmanager
def service(environment, folder):
    """A service that is ready; ended in any case."""
    with (folder / "log.jsonl").open("w") as log:
        running = subprocess.Popen([PROGRAM, "run"], env=os.environ | environment, cwd=folder, stderr=log)
        try:
            until(running, lambda: says_ready(environment), folder)
            yield running
        finally:
            running.kill()
            running.wait()


def says_ready(environment):
    """Whether the service says that it is ready."""
    return forecaster("health", env=environment).returncode == 0


def until(running, holds, folder):
    """Wait until something holds; the log says why it does not."""
    while not holds():
        assert running.poll() is None, (folder / "log.jsonl").read_text()
        time.sleep(0.2)
