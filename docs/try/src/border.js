// The mask with its border moved, as `strip --border` moves it.

import { InputError } from "./errors.js";
import { clean } from "./morphology.js";
import { countTrue } from "./numbers.js";
import { signedDistance } from "./surface.js";

const REACH_MM = 10; // of the slider

/*
 * The mask of what Stripper.strip returned with the border `mm` farther out. It leaves out voxels that are not finite.
 * Throws an InputError if nothing is left. The distance is measured once and kept with what was stripped.
 */
export function withBorder(stripped, mm, stored) {
  if (mm === 0) return stripped.mask;
  stripped.distance ??= signedDistance(stripped.mask, stripped.logit, stripped.box, REACH_MM);
  const mask = clean(moved(stripped.mask, stripped.distance, mm, stored));
  if (!countTrue(mask.data)) throw new InputError(`a border of ${mm} mm leaves no brain`);
  return mask;
}

/* The voxels whose signed distance is below `mm`; beyond the band that was measured the mask stays. */
function moved(mask, distance, mm, stored) {
  const data = mask.data.slice();
  const [width, height, depth] = distance.shape;
  const { start } = distance.box;
  let from = 0;
  for (let z = 0; z < depth; z++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, from++) {
        const k = x + start[0] + mask.shape[0] * (y + start[1] + mask.shape[1] * (z + start[2]));
        data[k] = distance.data[from] < mm && Number.isFinite(stored[k]) ? 1 : 0;
      }
  return { ...mask, data };
}
