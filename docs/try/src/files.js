// The files that a user gives.

const SCAN = /\.(nii|nii\.gz|mgh|mgz)$/i;

/*
 * What is in a list of files: `networks` if there are any, else the first that has the name of a scan as `scan`, or else the
 * first of all.
 */
export function sortFiles(files) {
  const networks = files.filter(({ name }) => /\.onnx$/i.test(name));
  if (networks.length) return { networks, scan: null };
  return { networks, scan: files.find(({ name }) => SCAN.test(name)) ?? files[0] ?? null };
}

/* What is wrong with a name for a scan, as a clause; "" if nothing is. */
export function nameFault(name) {
  if (SCAN.test(name)) return "";
  if (/\.(hdr|img)(\.gz)?$/i.test(name)) return "one of a pair of files: convert the pair to one NIfTI file";
  return "not a name of an image: .nii, .nii.gz, .mgz or .mgh";
}

/* The files of a drop, those in a dropped folder among them. transfer: a DataTransfer. */
export async function droppedFiles(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const given = items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    return entry?.isDirectory ? filesIn(entry) : [item.getAsFile()];
  });
  return (await Promise.all(given)).flat();
}

/* The files of a folder, not those of folders in it. */
async function filesIn(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at most
    if (!entries.length) return Promise.all(files);
    for (const entry of entries.filter(({ isFile }) => isFile))
      files.push(new Promise((resolve, reject) => entry.file(resolve, reject)));
  }
}
