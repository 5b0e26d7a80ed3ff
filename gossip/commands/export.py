"""gossip export: a model for whoever runs it without gossip."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model", metavar="RUN|MODEL.safetensors")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.onnx")
@click.option("--onnx", "is_onnx", is_flag=True, required=True, help="As an ONNX file: the only kind there is so far.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def export(model: str, out: Path, is_onnx: bool, as_json: bool) -> None:
    """Write a model as an ONNX file, which takes pixels as they are.

    Its input "images" is uint8[n, height, width, channels], pixels from 0 to 255 as a picture has them; its output
    "logits" is float32[n, classes]. Normalisation is inside, the classes' names are in the metadata. Needs the onnx
    package: pip install 'gossip-sgd[onnx]'

    Example: gossip export --onnx runs/mnist-mlp mnist.onnx
    """
    from gossip.exporting import save_onnx
    from gossip.inspect import find_model
    from gossip.observe import strict_json

    found = find_model(model).found
    result = save_onnx(found, out)
    click.echo(
        f"wrote    {out}, {result['bytes']:,} bytes: images uint8[n, {', '.join(map(str, found.shape))}] "
        f"-> logits float32[n, {len(found.classes)}]"
    )
    if as_json:
        click.echo(strict_json(result))
