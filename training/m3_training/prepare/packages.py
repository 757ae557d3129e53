"""Fetches and unpacks Debian packages without installing them and without touching the system's state."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from m3_core.errors import M3Error


class PackageError(M3Error):
    """A Debian package or list that could not be fetched or unpacked."""


@dataclass(frozen=True, slots=True)
class Debian:
    """Debian's packages, kept in a work folder: lists, archives and unpacked trees.

    Needs ``apt-get`` and ``dpkg`` and a configured archive, but no rights: the package lists are this folder's own.
    """

    work: Path
    languages: tuple[str, ...] = ("en",)

    def lists(self) -> Path:
        """The folder with the package lists and the descriptions in ``languages``, fetched once."""
        lists = self.work / "lists"
        done = self.work / "lists.done"
        wanted = ",".join(self.languages)
        if not done.exists() or done.read_text() != wanted:
            (lists / "partial").mkdir(parents=True, exist_ok=True)
            self._apt("update", "-o", f"Acquire::Languages={wanted}")
            done.write_text(wanted)
        return lists

    def unpack(self, package: str) -> Path:
        """The folder with the files of ``package``, fetched and unpacked when it is not there yet."""
        target = self.work / "unpacked" / package
        if target.exists():
            return target
        archives = self.work / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        found = sorted(archives.glob(f"{package}_*.deb"))
        if not found:
            self.lists()
            self._apt("download", package, cwd=archives)
            found = sorted(archives.glob(f"{package}_*.deb"))
        partial = target.with_name(package + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _run([_tool("dpkg"), "-x", str(found[-1].resolve()), str(partial.resolve())])
        partial.rename(target)  # only a complete tree gets the name that the next run trusts
        return target

    def _apt(self, *arguments: str, cwd: Path | None = None) -> None:
        state = self.work.resolve()
        (state / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = {
            "Dir::State::Lists": state / "lists",
            "Dir::Cache": state / "cache",
            "Acquire::GzipIndexes": "false",
            "APT::Sandbox::User": "root",
        }
        flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
        _run([_tool("apt-get"), "-q", *flags, *arguments], cwd=cwd)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise PackageError(
            f"{name} is not installed: the training texts come from Debian packages, so run this on Debian or "
            "Ubuntu, or in a container of one"
        )
    return path


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr).strip()}")
