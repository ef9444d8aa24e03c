"""Builds the compiled engine where that is possible; everything else is in pyproject.toml.

Without a compiler, or without Cython and the C file that a source distribution carries, the
package installs all the same, with the portable engine.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("ggaoe/engine/native/core.pyx")


def _extensions() -> list[Extension]:
    try:
        from Cython.Build import cythonize
    except ImportError:
        generated = SOURCE.with_suffix(".c")
        return [_extension(generated)] if generated.exists() else []
    depends = [str(path) for path in sorted(SOURCE.parent.glob("*.p*"))]
    extensions = list(cythonize([_extension(SOURCE, depends)], language_level=3))
    for extension in extensions:
        extension.optional = True  # which cythonize forgets
    return extensions


def _extension(source: Path, depends: list[str] | None = None) -> Extension:
    return Extension(
        "ggaoe.engine.native.core",
        [str(source)],
        depends=depends or [],
        define_macros=[("_GNU_SOURCE", "1")],
        extra_compile_args=["-O2", "-pthread"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(ext_modules=_extensions())
