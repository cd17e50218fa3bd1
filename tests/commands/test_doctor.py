"""`asdkit doctor`: what it finds by itself, and that each thing that is broken gives exit code 3 and a remedy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from asdkit.commands import doctor
from asdkit.commands.doctor import BAD, NOTE, OK, Finding
from asdkit.commands.main import main
from asdkit.priors.locate import locate
from asdkit.priors.pretrained import Pretrained

REQUIRED = """torch>=2.6 | pytorch-lightning<3,>=2.6.6 | diffusers>=0.42 | old-thing>=1; python_version < "3"
| viser>=1.1; extra == "viewer" | imageio>=2.34; extra == "video" | asdkit[viewer]; extra == "dev" """
METADATA = "Requires-Python: >=3.11\nProvides-Extra: dev\nProvides-Extra: viewer\nProvides-Extra: video\n"
GOOD = {"torch": "2.13.0+cpu", "pytorch-lightning": "2.6.6", "diffusers": "0.42.1", "viser": "1.1.0", "imageio": "2.40"}
ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
write = sys.stdout.write
def first(text):
    sys.stdout.write = write
    assert 'torch' not in sys.modules and text.startswith('asdkit '), text
    return write(text)
sys.stdout.write = first
from asdkit.commands.main import main
code = main(['doctor'])
assert not {'pytorch_lightning', 'gsplat', 'viser'} & set(sys.modules)  # might be malware, or compile
sys.exit(code)
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that are found, over a small list of requirements."""
    versions = dict(GOOD)

    def distributions(name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(version=versions[name])] if name in versions else []

    monkeypatch.setattr(doctor, "distributions", distributions)
    monkeypatch.setattr("asdkit.core.optional.requires", lambda name: [text.strip() for text in REQUIRED.split("|")])
    monkeypatch.setattr(doctor, "metadata", lambda name: message_from_string(METADATA))
    return versions


@pytest.fixture
def finds(tmp_path: Path) -> Callable[..., Finding]:
    """What a check finds: of this state, with these words in its text and its remedy."""

    def found(check: Callable, state: str, text: str = "", remedy: str = "", root: Path = tmp_path) -> Finding:
        finding = check(root)
        assert finding.state == state and text in finding.text and remedy in finding.remedy, finding
        return finding

    return found


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {name: check for name, check in doctor.CHECKS.items() if name in names})


def test_a_real_machine_in_one_screen(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert lines[-1] == "All that is required works."
    assert [line[5:15].strip() for line in lines[1:-1] if not line.startswith(" ")] == list(doctor.CHECKS)
    assert not list(tmp_path.iterdir())


def test_json_is_all_that_is_printed(installed: dict, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    def chatty(root: Path) -> Finding:
        print("hello")
        return Finding("fine", facts={"root": str(root)})

    only(monkeypatch, "packages")
    monkeypatch.setitem(doctor.CHECKS, "chatty", chatty)
    assert main(["doctor", "--json", "--run.root", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    versions = {name: GOOD[name] for name in ("torch", "pytorch-lightning", "diffusers")}
    assert report["broken"] == [] and report["checks"]["packages"]["facts"] == {"versions": versions}
    assert report["checks"]["chatty"] == {"text": "fine", "state": "ok", "remedy": "", "facts": {"root": str(tmp_path)}}
    del installed["torch"]
    assert main(["doctor", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["broken"] == ["packages"]


BAD_VERSIONS = {
    ("torch", "2.5.1"): ("packages", "torch 2.5.1, needed: >=2.6", '-> pip install -U "torch>=2.6"'),
    ("diffusers", None): ("packages", "diffusers is missing", '-> pip install -U "diffusers>=0.42"'),
    ("pytorch-lightning", "3.0"): ("packages", "pytorch-lightning 3.0, needed: <3,>=2.6.6"),
    ("pytorch-lightning", "2.6.2"): ("releases", "pytorch-lightning 2.6.2 is malware", "change every password"),
    ("lightning", "2.6.3"): ("releases", "lightning 2.6.3 is malware", "pip uninstall lightning"),
    ("diffusers", "0.37.1"): ("releases", "CVE-2026-44513", 'uninstall diffusers; then pip install "diffusers>=0.42"'),
    ("transformers", "5.2.0"): ("releases", "CVE-2026-4372"),
}


@pytest.mark.parametrize("case", BAD_VERSIONS, ids=str)
def test_bad_versions(installed: dict, monkeypatch: pytest.MonkeyPatch, capsys, case: tuple[str, str | None]) -> None:
    (package, version), (check, *says) = case, BAD_VERSIONS[case]
    only(monkeypatch, check)
    installed.pop(package, None)
    installed |= {package: version} if version else {}
    assert main(["doctor"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert all(text in out for text in says) and out.endswith(f"Broken: {check}.")


def test_good_neighbours_of_bad_releases_and_extras_that_are_notes(installed: dict, tmp_path: Path) -> None:
    assert doctor.extras(tmp_path).text == "there: viewer, video"
    installed |= {"lightning": "2.6.1", "pytorch-lightning": "2.6.4", "transformers": "5.3", "diffusers": "0.38"}
    assert doctor.releases(tmp_path).state == OK
    installed |= GOOD | {"torch": "2.14.0.dev20260101+cu130", "viser": "1.0.16"}
    assert doctor.packages(tmp_path).state == OK
    del installed["imageio"]
    finding = doctor.extras(tmp_path)
    assert (finding.state, finding.remedy) == (NOTE, 'pip install "viser>=1.1" "imageio>=2.34"')
    assert finding.text == "there: none; viewer lacks viser; video lacks imageio"


def test_the_real_requirements_are_those_of_pyproject(tmp_path: Path) -> None:
    versions = doctor.packages(tmp_path).facts["versions"]
    assert "torch" in versions and not {"pytest", "viser"} & set(versions)
    assert doctor.packages(tmp_path).state == doctor.releases(tmp_path).state == OK


def test_a_check_that_fails_is_a_broken_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fails(root: Path) -> Finding:
        raise ImportError("libthing.so: cannot open\nshared object")

    monkeypatch.setattr(doctor, "CHECKS", {"torch": fails, "cuda": lambda root: Finding("fine")})
    assert main(["doctor"]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "ImportError: libthing.so: cannot open shared object" in out and "ok cuda fine" in out


def test_torch_that_computes_wrongly(finds: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(doctor.torch, OK, torch.__version__)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, device: 1.5 * ones(*size, device=device))
    finds(doctor.torch, BAD, "(it is wrong)", "reinstall torch")


NO_CUDA = {  # what the driver sees, torch's build and CUDA_VISIBLE_DEVICES
    "no card": (([], None, None), "no GPU", ""),
    "a build for the CPU": (([["Card", "580.1"]], None, None), "Card is there (driver 580.1)", "built without CUDA"),
    "an old driver": (([["Card", "510.1"]], "13.0", None), "Card is there (driver 510.1)", "too new for the driver"),
    "a hidden card": (([["Card", "580.1"]], "13.0", ""), "Card is there", "unset CUDA_VISIBLE_DEVICES"),
}


@pytest.mark.parametrize("case", NO_CUDA)
def test_no_cuda_is_a_note(finds: Callable, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    (seen, build, visible), text, remedy = NO_CUDA[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(doctor, "nvidia_smi", lambda *fields: seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert bool(finds(doctor.cuda, NOTE, text, remedy).remedy) == bool(remedy)
    finds(doctor.gsplat, OK, "not needed")


def test_cuda_must_compute(finds: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    broken: dict[str, str] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(doctor, "nvidia_smi", lambda *fields: [["Card", "580.1"], ["Card", "580.1"]])
    monkeypatch.setattr(doctor, "_fails", lambda device: broken.get(device, ""))
    finding = finds(doctor.cuda, OK)
    assert finding.text == "2 x Card, 80 GB, capability 9.0; driver 580.1; computes"
    assert finding.facts["devices"] == ["Card, 80 GB, capability 9.0"] * 2
    for broken["cuda:1"] in ("no kernel image is available", "it is wrong"):
        finds(doctor.cuda, BAD, f"fails ({broken['cuda:1']})", "CUDA_VISIBLE_DEVICES=")


def test_kernels_are_found_where_torch_and_gsplat_keep_them(finds: Callable, monkeypatch, tmp_path: Path) -> None:
    from torch.utils import cpp_extension

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    for home in (None, str(tmp_path / "cuda")):
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", home)
        finds(doctor.gsplat, NOTE, "no nvcc", "CUDA toolkit 13.0")
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    assert finds(doctor.gsplat, NOTE, "compiled once").text.endswith(str(nvcc))

    for variable in (None, "TORCH_EXTENSIONS_DIR"):
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / "ext"))
            finds(doctor.gsplat, NOTE)
        built = Path(cpp_extension._get_build_directory("gsplat_cuda", False), "gsplat_cuda.so")
        built.touch()
        assert tmp_path in built.parents and doctor.gsplat(tmp_path).text == f"kernels are compiled: {built}"
    wheel = tmp_path / "gsplat" / "csrc.cpython-311.so"  # a build that was installed with the package comes first
    wheel.parent.mkdir()
    wheel.touch()
    spec = SimpleNamespace(submodule_search_locations=[wheel.parent])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert doctor.gsplat(tmp_path).text == f"kernels are compiled: {wheel}"


def test_more_threads_than_cores_are_a_note(finds: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    finds(doctor.cores, OK)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    finds(doctor.cores, NOTE, remedy="export OMP_NUM_THREADS=3:")
    finds(doctor.numba, OK)


def test_a_launcher_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if doctor.is_launchers(name):
            monkeypatch.delenv(name)
    assert doctor.launcher(tmp_path).text == "none: this is a process of its own"
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "SLURM_JOB_ID": "42"}.items():
        monkeypatch.setenv(name, value)
    assert doctor.launcher(tmp_path).text == "rank 1 of 4, LOCAL_RANK=1, RANK=1, SLURM_JOB_ID=42, WORLD_SIZE=4"


def test_a_run_root_that_cannot_be_written_to(finds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(doctor.runs, OK, root=tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    finds(doctor.runs, BAD, str(tmp_path / "file"), "--run.root", tmp_path / "file" / "runs")
    only(monkeypatch, "runs")
    assert main(["doctor", "--run.root", "/proc/runs"]) == 3


def test_little_room_is_a_note(finds: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"runs": 1.2, "cache": 6.1, "tmp": 1.5}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    for name in free:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path).name] * 2**30))
    deeper = tmp_path / "runs" / "deeper"
    finding = finds(doctor.disk, OK, f"runs 1.2 GB free ({deeper})", root=deeper)
    assert f"temporary files 1.5 GB free ({tmp_path / 'tmp'}); model cache 6.1 GB free" in finding.text
    free |= {"runs": 0.9, "cache": 5.9}
    finds(doctor.disk, NOTE, remedy="make room for runs (1 GB), model cache (6 GB); ", root=tmp_path / "runs")


def test_the_hub_is_asked_unless_told_to_be_offline(finds: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("models--org--some-model", "datasets--org--data"):
        (tmp_path / name).mkdir()
    for answers, state, said in ((True, OK, "answers"), (False, NOTE, "does not answer")):
        monkeypatch.setattr(doctor, "answers", lambda endpoint, answers=answers: answers)
        finding = finds(doctor.hub, state, f"{constants.ENDPOINT} {said}")
    assert f"1 models are in {tmp_path}: org/some-model" in finding.text and "HF_HUB_OFFLINE=1" in finding.remedy
    monkeypatch.setattr(doctor, "answers", None)  # to ask would fail
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert finds(doctor.hub, OK, "offline").facts["models"] == ["org/some-model"]
    for name in "abc":
        (tmp_path / f"models--{name}").mkdir()
    finds(doctor.hub, OK, f"4 models are in {tmp_path}: a, b, c, ...")


def test_the_embedded_prior_is_looked_into(finds: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = shutil.copytree(Pretrained().folder, tmp_path / "weights")
    monkeypatch.setattr("asdkit.priors.locate.locate", lambda *args: locate(str(copy)))
    finds(doctor.prior, OK, "is whole and loads")
    for name in ("tokenizer/vocab.json", "unet/config.json"):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        finds(doctor.prior, BAD, name.split("/")[0], "install asdkit again")
        (copy / name).write_bytes(content)
    finds(doctor.prior, OK)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    finds(doctor.prior, BAD, "not those of this release")
    shutil.rmtree(copy)
    finds(doctor.prior, BAD)
