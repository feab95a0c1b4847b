"""`flopmeter keygen PATH`: a key pair. Not here: how keys are kept (`attestation/signers`)."""

from collections.abc import Sequence

from flopmeter.attestation.signers.file import write_key_pair
from flopmeter.cli.output import DONE, build_parser, print_json, print_text


def run(argv: Sequence[str]) -> int:
    """Make the pair, and say where it lies."""
    parser = build_parser("keygen", "Make an Ed25519 key pair: PATH (private, mode 0600) and PATH.pub.")
    parser.add_argument("path", metavar="PATH", help="where the private key goes; it may not exist")
    args = parser.parse_args(argv)
    signer = write_key_pair(args.path)
    if args.json:
        print_json({"private": args.path, "public": f"{args.path}.pub", "key_id": signer.key_id})
    else:
        print_text(f"private key  {args.path}      keep it to yourself; whoever has it can sign as you")
        print_text(f"public key   {args.path}.pub  give it to whoever verifies")
        print_text(f"key id       {signer.key_id}")
    return DONE
