"""The `fmri-lm` command: help that teaches, and errors of one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from fmri_lm_hf import __version__, cli


def run(*argv: str, capsys) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        code = cli.main(argv)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for name, summary in cli.COMMANDS.items():
        assert name in out
        assert " ".join(summary.split()[:3]) in " ".join(out.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_shows_examples_that_parse(capsys, command):
    code, out, _ = run(command, "--help", capsys=capsys)
    assert code == 0
    lines = out.replace("\\\n", " ").splitlines()
    examples = [shlex.split(line, comments=True) for line in lines if line.startswith(f"  fmri-lm {command} ")]
    assert examples, "no line that starts with the command"
    for example in examples:
        cli.build_parser(command).parse_args(example[1:])


def test_help_teaches_in_order_and_loads_no_library():
    """`fmri-lm --help` takes well under a second: it imports this package's small modules alone."""
    command = [sys.executable, "-m", "fmri_lm_hf.cli", "--help"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy"} & imported
    places = [done.stdout.index(f"    {name} ") for name in ("ask", "describe", "demo", "scans", "train", "push")]
    assert places == sorted(places)


@pytest.mark.parametrize("command, successor", [("tokens", "experiments.tokens"), ("study", "experiments.ablation")])
def test_a_command_that_has_moved_works_or_says_where_it_is(capsys, monkeypatch, command, successor):
    with pytest.warns(FutureWarning, match=f"`fmri-lm {command}` is now `python -m {successor}`"):
        code, out, _ = run(command, "--help", capsys=capsys)
    assert code == 0
    assert f"usage: fmri-lm {command}" in out
    monkeypatch.setitem(sys.modules, cli.MOVED[command][0], None)  # as where only the package is installed
    code, _, err = run(command, "anything", capsys=capsys)
    assert code == 2
    assert err.startswith(f"fmri-lm {command}: This command is now `python -m {successor}`, in a checkout")
    assert command not in run("--help", capsys=capsys)[1].split("COMMAND\n")[1].split()


def test_warnings_of_a_process_are_one_line():
    code = "import sys, fmri_lm_hf.cli; sys.argv[1:] = ['study', '--help']; fmri_lm_hf.cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("fmri-lm: `fmri-lm study` is now `python -m experiments.ablation`;")
    assert done.stderr.count("\n") == 1


def test_an_unknown_command(capsys):
    code, _, err = run("dmeo", capsys=capsys)
    assert code == 2
    assert "invalid choice: 'dmeo'" in err
    assert "convert-upstream" in err
    assert run(capsys=capsys)[0] == 2


def test_version(capsys):
    assert run("--version", capsys=capsys) == (0, f"fmri-lm {__version__}\n", "")


def test_bad_input_ends_in_one_line(capsys, tmp_path):
    argv = ("demo", "--scans", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    code, _, err = run(*argv, capsys=capsys)
    assert code == 2
    assert err.startswith("fmri-lm demo: ")
    assert "nothing" in err
    assert err.count("\n") == 1


def test_debug_shows_the_error_itself(tmp_path):
    argv = ["--debug", "demo", "--scans", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    with pytest.raises((ValueError, OSError)):
        cli.main(argv)


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError])
def test_errors_of_commands_are_one_line(capsys, monkeypatch, kind):
    from fmri_lm_hf.cli import verify

    def fail(args):
        raise kind("first\n  second")

    monkeypatch.setattr(verify, "add_arguments", lambda parser: None)
    monkeypatch.setattr(verify, "run", fail)
    assert run("verify", capsys=capsys) == (2, "", "fmri-lm verify: first second\n")
    with pytest.raises(kind):
        cli.main(["--debug", "verify"])


def test_a_fault_of_ours_is_not_dressed_as_bad_input(monkeypatch):
    from fmri_lm_hf.cli import verify

    monkeypatch.setattr(verify, "add_arguments", lambda parser: None)
    monkeypatch.setattr(verify, "run", lambda args: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["verify"])


@pytest.mark.parametrize(
    "argv",
    [
        ("scans", "files", "nothing", "--out", "made"),
        ("atlas", "nothing.dlabel.nii"),
        ("corpus", "build", "nothing", "--out", "made"),
        ("verify", "org/nothing"),
    ],
)
def test_commands_that_load_no_model_do_not_import_torch(tmp_path, argv):
    command = [sys.executable, "-X", "importtime", "-m", "fmri_lm_hf.cli", *argv]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("argv", [("ask", "nothing.tsv", "hub"), ("describe", "nothing.tsv"), ("ask", "nothing.tsv")])
def test_a_missing_scan_is_said_at_once(tmp_path, argv):
    command = [sys.executable, "-X", "importtime", "-m", "fmri_lm_hf.cli", *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert f"fmri-lm {argv[0]}: The" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "transformers", "numpy"} & imported


def test_importing_the_package_waits_for_no_command():
    code = (
        "import sys, fmri_lm_hf\n"
        "heavy = ('nilearn', 'matplotlib', 'sklearn', 'datasets', 'evaluate')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
