// Reads "BITS TEXT" lines on stdin and compares each text with what this engine prints for the
// double of those bits. The one argument is how many lines there must be at least.
import { createInterface } from "node:readline";

const least = Number(process.argv[2]);
const view = new DataView(new ArrayBuffer(8));
let compared = 0, wrong = 0;

for await (const line of createInterface({ input: process.stdin })) {
    view.setUint32(0, parseInt(line.slice(0, 8), 16));
    view.setUint32(4, parseInt(line.slice(8, 16), 16));
    const want = JSON.stringify(view.getFloat64(0));
    compared++;
    if (line.slice(17) === want) continue;
    if (wrong++ < 10) console.log(`${line.slice(0, 16)}: ${line.slice(17)}, not ${want}`);
}
console.log(`${compared} numbers compared, ${wrong} differ`);
process.exit(wrong === 0 && compared >= least ? 0 : 1);
