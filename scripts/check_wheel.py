"""Build the wheel twice and use it as a stranger would: the same bytes, nothing in it that should not be, a proven model.

One wheel is built from the files of this checkout, the other from the sdist, unpacked elsewhere. Both must be the same
bytes, which shows that neither paths nor times get into them and that the sdist lacks nothing. The wheel is then
installed into an environment of its own, and quantizes the embedded model in a folder far from these sources.

Takes two builds of the library (some minutes) and a package index. Exit code 1, and a line per fault, where one is found.

    python scripts/check_wheel.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = re.compile(r"onnxquant/_lib/libonnxquant_ops\.(so|dylib|dll)")
NAME = re.compile(r"onnxquant-[^-]+-py3-none-[a-z0-9_]+\.whl")
# Versions of glibc's symbols that a library needs, and the glibc that a wheel's tag promises to be enough.
GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")
GLIBCXX = re.compile(rb"GLIBCXX_3\.4\.(\d+)")
# The newest GLIBCXX_3.4.N of libstdc++ that systems with a glibc have, by the first glibc of which that is promised.
LIBSTDCXX = {(2, 17): 19, (2, 24): 22, (2, 27): 24, (2, 31): 28, (2, 34): 29, (2, 35): 30, (2, 39): 33}
MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
METADATA = re.compile(r"onnxquant-[^-/]+\.dist-info/")
FORMATS = ["int8", "q5_0", "nf4"]


def faults_of(wheel: Path, package: set[str], folders: list[Path]) -> list[str]:
    """The faults of a wheel: a wrong name, files too many or too few, paths of the build inside.

    Args:
        wheel: the file
        package: names of its files but for the compiled library and its own metadata: ``onnxquant/errors.py`` ...
        folders: folders in which it was built; none of its files may name them
    """
    faults = [] if NAME.fullmatch(wheel.name) else [f"{wheel.name}: expected onnxquant-VERSION-py3-none-PLATFORM.whl"]
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
        held = {n for n in names if not METADATA.match(n)}
        libraries = {n for n in held if LIBRARY.fullmatch(n)}
        if len(libraries) != 1:
            faults.append(f"{wheel.name}: expected one compiled library, found {sorted(libraries) or 'none'}")
        faults += [f"{n}: does not belong into a wheel" for n in sorted(held - libraries - package)]
        faults += [f"{n}: is missing in the wheel" for n in sorted(package - held)]
        for name in names:
            data = archive.read(name)
            faults += [f"{name}: names {f}, where it was built" for f in folders if str(f).encode() in data]
        faults += [f for name in sorted(libraries) for f in too_new(wheel.name, name, archive.read(name))]
    return faults


def newest_glibc(library: bytes) -> tuple[int, int]:
    """The oldest glibc that has all symbols of a library, by the versions of these symbols."""
    return max(((int(major), int(minor)) for major, minor in GLIBC.findall(library)), default=(0, 0))


def newest_libstdcxx(library: bytes) -> int:
    """N of the newest GLIBCXX_3.4.N that a library needs."""
    return max(map(int, GLIBCXX.findall(library)), default=0)


def too_new(wheel: str, name: str, library: bytes) -> list[str]:
    """Faults of a library that needs a newer glibc or libstdc++ than its wheel's tag says; a plain ``linux`` tag says none.

    Args:
        wheel: name of the wheel
        name: name of the library in it
        library: its contents
    """
    promised = [(int(major), int(minor)) for major, minor in MANYLINUX.findall(wheel)]
    if not promised:
        return []
    glibc, libstdcxx = newest_glibc(library), newest_libstdcxx(library)
    held = max((newest for since, newest in LIBSTDCXX.items() if since <= min(promised)), default=0)
    faults = [f"{name}: needs glibc {glibc[0]}.{glibc[1]}, more than {wheel} says"] if glibc > min(promised) else []
    return faults + ([f"{name}: needs GLIBCXX_3.4.{libstdcxx}, more than {wheel} says"] if libstdcxx > held else [])


def difference(one: Path, other: Path) -> list[str]:
    """Files of two wheels that differ; empty where the wheels are the same bytes."""
    if one.read_bytes() == other.read_bytes():
        return []
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
        contents = [{n: z.read(n) for n in z.namelist()} for z in (a, b)]
    names = sorted(contents[0].keys() | contents[1].keys())
    faults = [f"{n}: differs between two builds" for n in names if contents[0].get(n) != contents[1].get(n)]
    return faults or [f"{one.name}: the same files, but other times, modes or order"]


def files() -> list[str]:
    """Files of this checkout: tracked ones, and new ones that are not ignored."""
    listed = _output(["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    return [n for n in listed.split("\0") if n and (ROOT / n).is_file()]


def build(folder: Path) -> tuple[Path, Path, list[Path]]:
    """The wheel of the checkout's files, the wheel of the sdist, and the folders that they were built in."""
    checkout = folder / "checkout"
    for name in files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    python = _environment(folder / "tools", "build")
    _output([python, "-m", "build", "--sdist", "--outdir", str(folder / "sdist"), str(checkout)])
    (sdist,) = (folder / "sdist").iterdir()
    unpacked = folder / "from an sdist"
    shutil.unpack_archive(sdist, unpacked)
    (source,) = unpacked.iterdir()
    for home, out in ((checkout, "wheel"), (source, "wheel of sdist")):
        _output([python, "-m", "build", "--wheel", "--outdir", str(folder / out), str(home)])
    (one,), (other,) = (folder / "wheel").iterdir(), (folder / "wheel of sdist").iterdir()
    return one, other, [checkout, source]


def use(wheel: Path, folder: Path) -> list[str]:
    """Install a wheel with its dependencies, and quantize and prove the embedded model with it."""
    python = _environment(folder / "user", str(wheel))
    home = folder / "elsewhere"
    home.mkdir()
    shutil.copy2(ROOT / "models" / "default.onnx", home / "model.onnx")
    where = _output([python, "-c", "import onnxquant; print(onnxquant.__file__)"], home).strip()
    faults = [] if where.startswith(str(folder)) else [f"the installed package is not used, but {where}"]
    for form in FORMATS:
        output = home / f"{form}.onnx"
        command = [str(Path(python).with_name("onnxquant")), "quantize", "model.onnx", "-o", output.name]
        report = json.loads(_output([*command, "--format", form, "--target", "custom", "--json"], home))
        print(f"{form}: {report['original_bytes']} -> {output.stat().st_size} bytes, passed: {report['passed']}")
        if not report["passed"]:
            faults.append(f"{form}: the proof failed: {report['failures']}")
    return faults


def _environment(home: Path, *packages: str) -> str:
    """Python of a new virtual environment with these packages."""
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    _output([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    return str(python)


def _output(command: list[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Check the wheel of this checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the wheel and the sdist here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheel-") as temporary:
        folder = Path(temporary).resolve()
        wheel, other, folders = build(folder)
        package = {n for n in files() if n.startswith("onnxquant/")}
        faults = difference(wheel, other) + faults_of(wheel, package, folders) + use(wheel, folder)
        with zipfile.ZipFile(wheel) as archive:
            libraries = [archive.read(n) for n in archive.namelist() if LIBRARY.fullmatch(n)]
        for library in libraries:
            major, minor = newest_glibc(library)
            print(f"its library needs glibc {major}.{minor} and GLIBCXX_3.4.{newest_libstdcxx(library)}")
        print(f"{wheel.name}: {wheel.stat().st_size} bytes, sha256 {hashlib.sha256(wheel.read_bytes()).hexdigest()}")
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            for file in (wheel, *(folder / "sdist").iterdir()):
                shutil.copy2(file, arguments.out / file.name)
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
