// What was dropped or chosen, as scans to send: a volume file is one, and the files of a DICOM study are one zip.
const medvaeDropped = (() => {
  const VOLUME = /\.(nii(\.gz)?|mgz|mgh(\.gz)?|mha|mhd|nrrd|nhdr)$/i, SLICE = /\.(dcm|ima)$/i;
  const MOST_FILES = 65535, MOST_BYTES = 2 ** 32 - 2 ** 24; // of a zip without extensions

  const alone = (file) => ({ name: file.name, size: file.size, body: async () => file });
  function study(name, files) {
    const size = files.reduce((sum, file) => sum + file.size, 0);
    if (!files.length) return { name, problem: "holds no files." };
    if (files.length > MOST_FILES || size > MOST_BYTES) return { name, problem: "is more than one study has. Give the folder of one person's study." };
    return { name, size, body: () => zipOf(files) };
  }

  // Files that were chosen or dropped by themselves; several slices are those of one study.
  function ofFiles(files) {
    const slices = files.filter((file) => SLICE.test(file.name));
    if (slices.length < 2) return files.map(alone);
    return [...files.filter((file) => !SLICE.test(file.name)).map(alone), study(slices.length + " DICOM files", slices)];
  }

  // A folder: each of its volume files, or else all its files as a study.
  function ofFolder(name, files) {
    const volumes = files.filter((file) => VOLUME.test(file.name));
    return volumes.length ? volumes.map(alone) : [study(name, files)];
  }

  // The entries are asked for before anything is waited for: the browser forgets them when the event has ended.
  async function ofTransfer(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean), files = [...transfer.files];
    if (!entries.some((entry) => entry.isDirectory)) return ofFiles(files);
    const loose = [], scans = [];
    for (const entry of entries) {
      const within = [];
      await collect(entry, within);
      if (entry.isDirectory) scans.push(...ofFolder(entry.name, within));
      else loose.push(...within);
    }
    return [...ofFiles(loose), ...scans];
  }
  async function collect(entry, into) {
    if (entry.name.startsWith(".") || entry.name === "__MACOSX") return; // the system's own
    if (entry.isFile) return void into.push(await new Promise((done, failed) => entry.file(done, failed)));
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // not all at once
      if (!some.length) return;
      for (const one of some) await collect(one, into);
    }
  }

  // A zip whose files are stored as they are, numbered: what they are called stays here. They are read from the disk as
  // they are sent, and once before for their checksums.
  async function zipOf(files) {
    const parts = [], directory = [];
    let offset = 0;
    for (const [number, file] of files.entries()) {
      const name = new TextEncoder().encode(String(number).padStart(6, "0"));
      const about = fields(16, 20, 16, 0, 16, 0, 16, 0, 16, 33, 32, await checksum(file), 32, file.size, 32, file.size, 16, name.length, 16, 0);
      const head = [fields(32, 0x04034b50), about, name];
      directory.push(fields(32, 0x02014b50, 16, 20), about, fields(16, 0, 16, 0, 16, 0, 32, 0, 32, offset), name);
      parts.push(...head, file);
      offset += lengthOf(head) + file.size;
    }
    const end = fields(32, 0x06054b50, 16, 0, 16, 0, 16, files.length, 16, files.length, 32, lengthOf(directory), 32, offset, 16, 0);
    return new Blob([...parts, ...directory, end]);
  }
  const lengthOf = (parts) => parts.reduce((sum, part) => sum + part.byteLength, 0);
  function fields(...pairs) { // bits and value, in turn; the least significant byte first
    const bytes = [];
    for (let index = 0; index < pairs.length; index += 2)
      for (let shift = 0; shift < pairs[index]; shift += 8) bytes.push((pairs[index + 1] >>> shift) & 255);
    return new Uint8Array(bytes);
  }
  const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });
  async function checksum(file) { // CRC-32
    let sum = -1;
    for (let from = 0; from < file.size; from += 2 ** 24)
      for (const byte of new Uint8Array(await file.slice(from, from + 2 ** 24).arrayBuffer())) sum = CRC[(sum ^ byte) & 255] ^ (sum >>> 8);
    return (sum ^ -1) >>> 0;
  }
  return { ofFiles, ofTransfer };
})();
