"""What `geomae predict` says of its maps before it makes them."""

from collections.abc import Sequence

from geomae.commands.session import Session
from geomae.prediction.assessment import shared_ground_remark
from geomae.prediction.models import WindowModel
from geomae.prediction.record import learned_remarks, scale_remark
from geomae.prediction.scene_maps import FEW_CELLS, MapJob
from geomae.prediction.tiles import as_number
from geomae.tiles.selection import Selection


def describe_plan(
    session: Session, fitted: Sequence[tuple[Selection, WindowModel]], jobs: Sequence[MapJob], known: Sequence[str]
) -> list[str]:
    """Print what will be mapped and how; returns remarks for the reader of the maps, of which `known` are the last."""
    record = fitted[0][1].record
    remarks: list[str] = [] if record.renumbered is None else [record.renumbered]
    for selected, model in fitted:
        scale = scale_remark(record, selected.imagery, selected.name)
        remarks += [] if scale is None else [scale]
        remarks += learned_remarks(record, selected.index, selected.name)
        labels = [one for one in selected.index.tiles["label"].tolist() if one is not None] if record.of_numbers else []
        strange = sum(as_number(one) is None for one in labels)
        if strange:
            remarks.append(f"{selected.name}: {strange} labels are not numbers, and are not scored")
        own = [job for job in jobs if job.selected is selected]
        small = sum(job.lattice.padded for job in own)
        if small:
            remarks.append(
                f"{selected.name}: {small} of {len(own)} scenes are smaller than a window of {record.tile} pixels; "
                "the rest of the window is invalid"
            )
        without = selected.index.tiles["scene"].nunique() - len(own)
        if own and without:
            remarks.append(f"{selected.name}: {without} scenes are no larger than a cell of a map; they are not mapped")
        most = max((max(job.lattice.rows, job.lattice.cols) for job in own), default=FEW_CELLS)
        if most < FEW_CELLS and not record.of_pixels:
            remarks.append(
                f"{selected.name}: a map has at most {most} x {most} cells of {own[0].lattice.cell} pixels, since the "
                "model predicts one value per tile; a smaller `tile.stride` gives more cells, and labels of pixels "
                "(rasters or polygons with --task segmentation) give a value for every pixel"
            )
        sizes = sorted(set(selected.index.tiles["size"].tolist()) - {record.tile})
        if sizes and not record.of_pixels:
            remarks.append(
                f"{selected.name}: its tiles have {', '.join(map(str, sizes))} pixels per side, and the model was "
                f"trained on {record.tile}; maps use windows of {record.tile}"
            )
        if session.common.dry_run:
            cell = "pixels" if record.of_pixels else f"cells of {own[0].lattice.cell} pixels" if own else "nothing"
            session.screen.result(
                f"predict {selected.name}: {len(selected.index)} tiles; maps of {len(own)} scenes in {cell}, "
                f"{sum(job.windows for job in own)} windows of {record.tile} pixels"
            )
            for note in model.notes:
                session.screen.result(f"{selected.name}: {note}")
    uncertain = dict.fromkeys(note for _, model in fitted for note in model.confidence_notes)
    if uncertain:
        remarks.append(
            f"confidence: {'; '.join(uncertain)}. High confidence is no sign of accuracy then; labels or reference "
            "points (--sample) measure that"
        )
    if not record.of_numbers and (shared := shared_ground_remark([job.grid for job in jobs])):
        remarks.append(shared)
    remarks += known
    for remark in remarks:
        session.screen.warn(remark)
    return remarks
