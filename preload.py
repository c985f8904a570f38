def preload(parser):
    parser.add_argument(
        "--eiup-journal-dir",
        default=None,
        help="folder of EIUP's journal (default: log/eiup in the data folder)",
    )
