"""The version of this software, which stands here and nowhere else; a build reads it from here."""

__version__ = "0.2.0.dev0"
