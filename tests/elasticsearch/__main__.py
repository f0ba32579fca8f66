"""`python -m tests.elasticsearch [DIRECTORY]`: a real node to try ingestd with, until Ctrl-C.

Its data are below DIRECTORY, and there again the next time; without one they are gone at the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.elasticsearch.nodes import MissingToolError, Node


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        node = Node(directory, 0, [(9200, 9300)])
        try:
            node.start()
        except MissingToolError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"Elasticsearch answers at {node.url}; its log is {node.log}. Ctrl-C ends it.", flush=True)
        try:
            assert node.process is not None
            return node.process.wait()
        except KeyboardInterrupt:
            node.stop()
            return 0


if __name__ == "__main__":
    sys.exit(main())
