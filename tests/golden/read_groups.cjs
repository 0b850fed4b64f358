// Prints the measurement groups of an SR as dcmjs reads them: [label, UID, ["concept=value", ...]].
const [, , dcmjsFile, file] = process.argv;
const dcmjs = require(dcmjsFile);
const bytes = require("fs").readFileSync(file);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const { dict } = dcmjs.data.DicomMessage.readFile(buffer);
const report = dcmjs.data.DicomMetaDictionary.naturalizeDataset(dict);

const list = (value) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);
const first = (value) => list(value)[0];
const children = (item) => list(item.ContentSequence);
const concept = (item) => (first(item.ConceptNameCodeSequence) || {}).CodeValue;

const measurements = children(report).filter((item) => concept(item) === "126010");
const groups = measurements.flatMap(children).filter((item) => concept(item) === "125007");
const read = groups.map((group) => {
  const text = children(group).find((item) => concept(item) === "112039").TextValue;
  const uid = children(group).find((item) => concept(item) === "112040").UID;
  const codes = children(group)
    .filter((item) => item.ValueType === "CODE" && concept(item) !== "111000")
    .map((item) => `${concept(item)}=${first(item.ConceptCodeSequence).CodeValue}`);
  return [text, uid, codes];
});
console.log(JSON.stringify(read));
