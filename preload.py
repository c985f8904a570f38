import sys
from argparse import ArgumentTypeError
from pathlib import Path


def preload(parser):
    parser.add_argument(
        "--eiup-journal-dir",
        default=None,
        help="folder of EIUP's journal (default: log/eiup in the data folder)",
    )
    parser.add_argument(
        "--eiup-policy",
        type=_policy_file,
        default=None,
        metavar="FILE",
        help="EIUP's policy: what is erased from every image, whatever users ask for",
    )


def _policy_file(path):
    """The absolute path of a policy that can be used; any other one ends the server's start."""
    root = str(Path(__file__).resolve().parent)
    sys.path.insert(0, root)
    try:
        from eiup.policy_file import PolicyError, read_policy
    finally:
        sys.path.remove(root)
    try:
        read_policy(Path(path).resolve())
    except PolicyError as error:
        raise ArgumentTypeError(str(error)) from error
    return str(Path(path).resolve())
