// Puts N messages into the queue in bulk. usage: node fill.js bull|bullmq N; the message is in BENCH_MESSAGE.
'use strict';
const { redis, queueName, jobOptions, envelope } = require('./shared');

const [library, total] = [process.argv[2], Number(process.argv[3])];
const input = JSON.parse(process.env.BENCH_MESSAGE);

async function main() {
  let add;
  if (library === 'bull') {
    const Bull = require('bull');
    const queue = new Bull(queueName, { redis });
    await queue.isReady();
    add = (messages) => queue.addBulk(messages.map((data) => ({ data, opts: { ...jobOptions, jobId: data.messageId } })));
  } else {
    const { Queue } = require('bullmq');
    const queue = new Queue(queueName, { connection: redis });
    await queue.waitUntilReady();
    add = (messages) => queue.addBulk(messages.map((data) => ({ name: 'message', data, opts: { ...jobOptions, jobId: data.messageId } })));
  }
  for (let left = total; left > 0; left -= 500) await add(Array.from({ length: Math.min(500, left) }, () => envelope(input)));
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
