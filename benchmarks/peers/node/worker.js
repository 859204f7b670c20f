// Queue consumer. usage: node worker.js bull|bullmq CONCURRENCY; BENCH_WORK says what the handler does.
'use strict';
const mongoose = require('mongoose');
const { redis, mongoUrl, queueName, Breaker, deadLetterModel, deadLetter, handlerFor } = require('./shared');

const [library, concurrency] = [process.argv[2], Number(process.argv[3])];

function stamper() {
  const Redis = require('ioredis');
  const client = new Redis(redis.port, redis.host);
  return (line) => client.rpush('bench:starts', line);
}

async function main() {
  const work = process.env.BENCH_WORK;
  const handle = handlerFor(work, work === 'stamp' ? stamper() : undefined);
  await mongoose.connect(mongoUrl, { maxPoolSize: 10 });
  const letters = deadLetterModel(mongoose);
  await letters.init();
  const breaker = new Breaker();

  // Runs the handler; a permanent error is recorded as a dead letter first and then ends the job without a retry.
  const run = async (job, endWithoutRetry) => {
    try {
      const result = await handle(job.data);
      breaker.record(true);
      return result;
    } catch (error) {
      breaker.record(false);
      if (!error.permanent) throw error;
      await letters.create(deadLetter(job.data, error, job.attemptsMade));
      throw await endWithoutRetry(error);
    }
  };

  if (library === 'bull') {
    const Bull = require('bull');
    new Bull(queueName, { redis }).process(concurrency, (job) => run(job, async (error) => { await job.discard(); return error; }));
  } else {
    const { Worker, UnrecoverableError } = require('bullmq');
    const consumer = new Worker(queueName, (job) => run(job, async (error) => new UnrecoverableError(error.message)), { connection: redis, concurrency });
    consumer.on('error', (error) => console.error(error));
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
