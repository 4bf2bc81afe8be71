"""Kubernetes manifests and the SLURM script: by schema, by what they pass on, and by a run with fakes of srun and scontrol."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference_server.settings import read_settings
from trainer.cli import COMMANDS
from trainer.config.loading import load_config
from trainer.config.sections import DoctorConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
SBATCH = ROOT / "deploy/slurm/regime_w.sbatch"


def resources() -> list[dict[str, Any]]:
    """What the kustomization lists."""
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
    lines = [shlex.split(line.removeprefix("exec ")) for line in script.splitlines()]
    return [words for words in lines if words[:2] == ["python3", "-m"]]


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
    """A clone with an interpreter, and a PATH on which SLURM's programs note what they are asked for."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text("#!/bin/sh\nfor node in $3; do echo $node; done\n")
    (programs / "srun").write_text(
        "#!/bin/bash\n"
        f'note() {{ echo "$1" >> {shlex.quote(str(tmp_path / "calls"))}; }}\n'
        'case "$*" in *inference_server*) note "$*"; exec sleep 300 ;; esac\n'
        f"trap 'kill $sleeping 2>/dev/null; note stopped; exit 0' TERM\n"
        'note "$*"\n'
        f'until [ "$(grep -c inference_server {shlex.quote(str(tmp_path / "calls"))})" = $NUM_SERVERS ]; do sleep 0.05; done\n'
        'if [ -n "${GO_ON:-}" ]; then sleep 300 & sleeping=$!; wait $sleeping; fi\n'
        "exit ${TRAINER_CODE:-0}\n"
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def submitted(cluster: Path, nodes: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}", **variables}
    return subprocess.Popen(
        ["bash", str(SBATCH)],
        cwd=cluster,
        env={
            **environment,
            "SLURM_JOB_NODELIST": nodes,
            "NUM_SERVERS": str(len(nodes.split()) - 1),
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_slurm_job_is_a_trainer_and_a_server_on_each_other_node(code: int, cluster: Path) -> None:
    job = submitted(cluster, "n1 n2 n3", TRAINER_CODE=str(code), RUN_NAME="mine")
    job.communicate(timeout=60)
    assert job.returncode == code
    calls = sorted((cluster / "calls").read_text().splitlines(), key=lambda call: "trainer" in call)
    *servers, trainer = (shlex.split(call.replace('"', "'\"'")) for call in calls)
    assert sorted(words[2] for words in servers) == ["--nodelist=n2", "--nodelist=n3"]
    for words in servers:
        _, unknown = read_settings(after_module(words))
        assert unknown == []
    assert "--nodelist=n1" in trainer
    config = load_config(TrainConfig, after_module(trainer)[1:], prog="t")
    assert list(config.server.urls) == ["http://n2:8000", "http://n3:8000"]
    assert str(config.run.folder) == "runs/mine/run"


def after_module(words: list[str]) -> list[str]:
    """The arguments of a Python module, its configuration read from the repository."""
    found = words[words.index("-m") + 2 :]
    return [word.replace("deploy/", f"{ROOT}/deploy/") for word in found]


def test_a_slurm_job_whose_time_is_over_lets_the_trainer_end(cluster: Path) -> None:
    job = submitted(cluster, "n1 n2", GO_ON="1")
    while not (cluster / "calls").exists() or " train " not in (cluster / "calls").read_text():
        assert job.poll() is None
    job.terminate()
    job.communicate(timeout=60)
    assert job.returncode == 0
    assert (cluster / "calls").read_text().splitlines()[-1] == "stopped"


def test_a_slurm_job_of_one_node_is_refused(cluster: Path) -> None:
    job = submitted(cluster, "n1")
    assert "give --nodes=2 or more" in job.communicate(timeout=60)[1]
    assert job.returncode == 2
