"""Kubernetes manifests and the SLURM script: their schema, what they pass on, and a run with fakes of srun and scontrol."""

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.settings import read_settings
from tests.processes import killed_at_the_end
from tests.waiting import wait_until
from trainer.cli import COMMANDS
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
SBATCH = ROOT / "deploy/slurm/regime_w.sbatch"


def resources() -> list[dict[str, Any]]:
    """The resources that the kustomization lists."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = [KUBERNETES / name for name in kustomization["resources"]]
    return [part for file in files for part in yaml.safe_load_all(file.read_text())]


def container(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resource of a kind, and the only container of its pods."""
    (resource,) = (each for each in resources() if each["kind"] == kind)
    (found,) = resource["spec"]["template"]["spec"]["containers"]
    return resource, found


def commands(container: dict[str, Any]) -> list[list[str]]:
    """The Python programs that a container starts, as words, with its variables in them."""
    values = {each["name"]: each["value"] for each in container["env"]}
    script = container["command"][-1]
    for name, value in values.items():
        script = script.replace(f'"${name}"', value)
    found = []
    for line in script.splitlines():
        line = line.removeprefix("exec ").removeprefix("sh /opt/regime-w/supervise.sh ")
        words = shlex.split(line.partition(" || ")[0])
        if words[:2] == ["python3", "-m"]:
            found.append(words)
    return found


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_manifests_are_of_their_schema(version: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate, which .ci/run installs"
    ).validate
    for resource in resources():
        validate(resource, version, strict=True)


def test_pods_start_commands_that_exist_with_settings_that_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT / "deploy")
    stateful_set, server = container("StatefulSet")
    job, trainer = container("Job")
    for each in (server, trainer):
        with monkeypatch.context() as patch:
            for variable in each["env"]:
                patch.setenv(variable["name"], variable["value"])
            for _, _, module, *words in commands(each):
                if module == "inference_server":
                    settings, unknown = read_settings(words)
                    assert (settings.host, settings.gpu_memory_utilization, unknown) == (
                        *("0.0.0.0", 0.9),
                        [],
                    )
                else:
                    config = load_config(COMMANDS[words[0]].config, words[1:], prog="t")
                    assert isinstance(config, DoctorConfig | TrainConfig)
                    if words[0] == "train":
                        assert isinstance(config, TrainConfig)
                        names = [
                            f"http://regime-w-server-{i}.{stateful_set['spec']['serviceName']}:8000"
                            for i in range(stateful_set["spec"]["replicas"])
                        ]
                        assert list(config.server.urls) == names
                        assert config.run.metrics_port == trainer["ports"][0]["containerPort"]
                        assert str(config.run.folder).startswith("runs/")
    (fail, _) = job["spec"]["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"]["values"] == [2]


def test_containers_write_where_volumes_are() -> None:
    for kind in ("StatefulSet", "Job"):
        resource, found = container(kind)
        pod = resource["spec"]["template"]["spec"]
        claims = resource["spec"].get("volumeClaimTemplates", [])
        volumes = {each["name"] for each in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        assert {mount["name"] for mount in found["volumeMounts"]} == volumes
        assert found["securityContext"]["readOnlyRootFilesystem"]
        assert {"/tmp", "/dev/shm", "/data/cache"} < {
            mount["mountPath"] for mount in found["volumeMounts"]
        }


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A clone whose interpreter notes its node and arguments, and a folder with fakes of SLURM's programs."""
    for name in (".venv/bin", "bin", "deploy"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "deploy/supervise.sh").write_text((ROOT / "deploy/supervise.sh").read_text())
    fakes = {
        "bin/scontrol": "for node in $3; do echo $node; done\n",
        "bin/srun": (
            "for word; do\n"
            '  case "$word" in --nodelist=*) export NODE="${word#*=}" ;; --*) ;; *) break ;; esac\n'
            "  shift\n"
            "done\n"
            'exec "$@"\n'
        ),
        ".venv/bin/python": (
            'note() { echo "$NODE $1" >> calls; }\n'
            'case "$*" in\n'
            '  *" doctor "*"--role server"*) note "$*"; exit ${SERVER_DOCTOR:-0} ;;\n'
            '  *" doctor "*) note "$*"; exit 0 ;;\n'
            '  *inference_server*) note "$*"; exec sleep 300 ;;\n'
            "esac\n"
            "trap 'kill $sleeping 2>/dev/null; note stopped; exit 0' TERM\n"
            'until [ "$(grep -c inference_server calls)" = $NUM_SERVERS ]; do sleep 0.05; done\n'
            'note "$*"\n'
            'if [ -n "${GO_ON:-}" ]; then sleep 300 & sleeping=$!; wait $sleeping; fi\n'
            "code=$(head -n 1 codes 2>/dev/null || echo 0); sed -i 1d codes\n"
            "exit $code\n"
        ),
    }
    for name, script in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@contextmanager
def submitted(
    cluster: Path, nodes: str, *, codes: Sequence[int] = (0,), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the script; the trainer ends with one of ``codes`` at each start."""
    (cluster / "codes").write_text("".join(f"{code}\n" for code in codes))
    job = subprocess.Popen(
        ["bash", str(SBATCH)],
        cwd=cluster,
        env={
            **os.environ,
            "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_JOB_ID": "40007",
            "NUM_SERVERS": str(len(nodes.split()) - 1),
            "CHECK_S": "0.05",
            "RESTART_S": "0",
            **variables,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    with killed_at_the_end(job):
        yield job


def calls_of(cluster: Path, kind: str) -> list[list[str]]:
    """Node and arguments of each program of a kind that was started, in the order of the nodes."""
    calls = [call for call in (cluster / "calls").read_text().splitlines() if f" {kind} " in call]
    return sorted(shlex.split(call.replace('"', "'\"'")) for call in calls)


def after_module(words: list[str]) -> list[str]:
    """The arguments of a Python module, with paths of configurations in the repository."""
    found = words[words.index("-m") + 2 :]
    return [word.replace("deploy/", f"{ROOT}/deploy/") for word in found]


@pytest.mark.parametrize(("codes", "num_starts"), [([0], 1), ([2], 1), ([3, 137, 0], 3)])
def test_a_slurm_job_is_a_trainer_and_a_server_on_each_other_node(
    codes: list[int], num_starts: int, cluster: Path
) -> None:
    with submitted(cluster, "n1 n2 n3", codes=codes, RUN_NAME="mine") as job:
        job.communicate(timeout=300)
    assert job.returncode == codes[-1]
    doctors = calls_of(cluster, "doctor")
    roles = [load_config(DoctorConfig, after_module(each)[1:], prog="t").role for each in doctors]
    assert [each[0] for each in doctors] == ["n1", "n2", "n3"]
    assert roles == ["trainer", "server", "server"]
    servers = calls_of(cluster, "inference_server")
    assert [each[0] for each in servers] == ["n2", "n3"]
    for words in servers:
        settings, unknown = read_settings(after_module(words))
        # The port is derived from the job's number.
        assert (settings.host, settings.port, unknown) == ("0.0.0.0", 24_007, [])
    trainers = calls_of(cluster, "train")
    assert [each[0] for each in trainers] == ["n1"] * num_starts
    config = load_config(TrainConfig, after_module(trainers[0])[1:], prog="t")
    assert list(config.server.urls) == ["http://n2:24007", "http://n3:24007"]
    assert str(config.run.folder) == "runs/mine/run"


def test_a_slurm_job_whose_time_is_over_lets_the_trainer_end(cluster: Path) -> None:
    calls = cluster / "calls"
    with submitted(cluster, "n1 n2", GO_ON="1") as job:
        wait_until(lambda: calls.exists() and " train " in calls.read_text())
        assert job.poll() is None
        job.terminate()
        job.communicate(timeout=300)
    assert job.returncode == 0
    assert calls.read_text().splitlines()[-1] == "n1 stopped"


def test_a_slurm_job_ends_once_no_server_is_left(cluster: Path) -> None:
    with submitted(cluster, "n1 n2 n3", SERVER_DOCTOR="1") as job:
        assert "no server is left" in job.communicate(timeout=300)[1]
    assert job.returncode == 2


def test_a_slurm_job_of_one_node_is_refused(cluster: Path) -> None:
    with submitted(cluster, "n1") as job:
        assert "give --nodes=2 or more" in job.communicate(timeout=300)[1]
    assert job.returncode == 2
