"""A map of a place without labels: pretrained on both places, fine-tuned where labels are, adapted, mapped, assessed.

    uv run python -m pipelines.map_target --out runs/map

runs on the sample landscape: labels of its lowland in summer, a map of its dryland in the dry season. On real tiles,
with DATA as the folder of their catalogue:

    uv run python -m pipelines.map_target --out runs/map --catalog DATA/catalog.yaml --task classification \
        --source hls@train --target hls@test_far --steps 1000 --adapt-set steps=200

Labels of the target, if there are any, do not influence the model. They measure the accuracy of the maps of the
fine-tuned model (`direct`) and of the adapted model (`map`). The report of `map` lists the steps behind it.
"""

from geomae.catalog import parse_selector
from geomae.evaluation.adaptation_probe import AFTER
from pipelines.adaptation import Study, run
from pipelines.adaptation_options import options


def main() -> None:
    """Read the command line and run the steps."""
    parser = options(
        __doc__, finetuned=True, source="landscape[domain=lowland]", target="landscape[domain=dryland]",
        task="segmentation", finetune_set=["steps=60", "rates=[0.1]"], adapt_set=["steps=30"],
    )  # fmt: skip
    run("map_target", parser.parse_args(), steps)


def steps(study: Study) -> None:
    """Train a model on both places, fine-tune it on one, and map the other before and after adaptation."""
    tuned = study.finetune(study.model(beside=[parse_selector(study.arguments.target)]))
    study.predict("direct", tuned)
    study.predict("map", study.adapt(tuned)[AFTER])


if __name__ == "__main__":
    main()
