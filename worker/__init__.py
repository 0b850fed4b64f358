"""Turns a radiograph Instance into a report Instance. No association, no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_node.base.version import __version__

if TYPE_CHECKING:
    from os import PathLike

    from worker.research.reader import LoadedModel

__all__ = ["__version__", "load"]


def load(name: str | None = None, config: str | PathLike[str] | None = None) -> LoadedModel:
    """Load a model for scripts and notebooks; the heavy imports happen here.

    Parameters
    ----------
    name : str, optional
        A table ``[models.NAME]`` of `config`; ``[worker] model`` when left out.
    config : path, optional
        worker.toml; without it there is ``phantom``, which reads drawings.

    Returns
    -------
    LoadedModel
        Its `describe` takes a path, bytes, an array or a data set.

    Raises
    ------
    ConfigurationError
        There is no such model, or its files are not acceptable.

    Examples
    --------
    >>> with load("phantom") as reader:  # doctest: +SKIP
    ...     print(reader.describe("image.dcm").text)
    No fractures are seen.
    """
    from worker.research.reader import load as load_reader

    return load_reader(name, config)
