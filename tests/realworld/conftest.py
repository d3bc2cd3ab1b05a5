"""Workers for homes with a server of their own. These tests need real libraries: the extra `realworld`."""

from tests.faults.conftest import fleet

__all__ = ["fleet"]
