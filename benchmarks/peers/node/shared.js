// What both Node programs need: addresses, the Joi schema, a breaker kept in memory, the dead letter and the handler.
'use strict';
const os = require('os');
const { randomUUID } = require('crypto');
const Joi = require('joi');

const redis = { host: '127.0.0.1', port: Number(process.env.BENCH_REDIS_PORT) };
const mongoUrl = process.env.BENCH_MONGO_URL;
const queueName = 'messages';
// Four attempts with exponential waits; a bounded tail of finished jobs, as the packages' guides advise.
const jobOptions = {
  attempts: 4, backoff: { type: 'exponential', delay: 1000 }, removeOnComplete: 1000, removeOnFail: 5000,
};

const schema = Joi.object({
  id: Joi.string().max(100),
  type: Joi.string().max(100),
  payload: Joi.object().required(),
  metadata: Joi.object({
    source: Joi.string().max(100).default('api'),
    priority: Joi.string().valid('low', 'normal', 'high').default('normal'),
    tags: Joi.array().items(Joi.string()).max(20).default([]),
  }).default({}),
});

// Counts outcomes of the last minute in an array. minimumCalls is out of reach: it must count, never trip, in a benchmark.
class Breaker {
  constructor() {
    this.openUntil = 0; this.outcomes = []; this.first = 0; this.failures = 0; this.minimumCalls = Number.MAX_SAFE_INTEGER;
  }

  allows() { return Date.now() >= this.openUntil; }

  record(ok) {
    const now = Date.now();
    this.outcomes.push([now, ok]);
    if (!ok) this.failures += 1;
    for (; this.outcomes[this.first][0] < now - 60000; this.first += 1) if (!this.outcomes[this.first][1]) this.failures -= 1;
    if (this.first > 10000) { this.outcomes = this.outcomes.slice(this.first); this.first = 0; }
    const calls = this.outcomes.length - this.first;
    if (calls >= this.minimumCalls && this.failures / calls >= 0.5) this.openUntil = now + 30000;
  }
}

function envelope(input) {
  return {
    messageId: input.id || randomUUID(), type: input.type, payload: input.payload, metadata: input.metadata || {},
    timestamp: new Date().toISOString(), retryCount: 0,
  };
}

function deadLetterModel(mongoose) {
  const letter = new mongoose.Schema({
    messageId: { type: String, required: true, unique: true },
    originalMessage: { type: Object, required: true },
    errorReason: String, errorStack: String, errorType: { type: String, index: true },
    retryCount: { type: Number, default: 0 }, dlqRetryCount: { type: Number, default: 0 },
    status: { type: String, enum: ['dlq_pending', 'dlq_processing', 'dlq_resolved', 'dlq_failed', 'dlq_manual'], default: 'dlq_pending' },
    failedAt: { type: Date, default: Date.now },
    metadata: { source: String, priority: String, tags: [String], systemState: Object },
    replayAttempts: [Object],
  }, { timestamps: true });
  letter.index({ status: 1, failedAt: -1 });
  return mongoose.model('DeadLetter', letter, 'dead_letters');
}

function deadLetter(message, error, retryCount) {
  const { source = 'api', priority = 'normal', tags = [] } = message.metadata;
  return {
    messageId: message.messageId, originalMessage: message, errorReason: error.message, errorStack: error.stack,
    errorType: error.errorType || 'UNKNOWN_ERROR', retryCount,
    metadata: { source, priority, tags, systemState: { cpu: os.loadavg(), memory: process.memoryUsage().rss, uptime: process.uptime() } },
  };
}

const pause = () => new Promise((resolve) => { setTimeout(resolve, 20); });

function handlerFor(work, stamp) {
  switch (work) {
    case 'noop': return async () => true;
    case 'sleep20': return pause;
    case 'fail': return async () => {
      throw Object.assign(new Error('the order has no customer'), { errorType: 'VALIDATION_ERROR', permanent: true });
    };
    case 'stamp': return async (message) => stamp(`${message.messageId} ${process.hrtime.bigint()}`);
    default: throw new Error(`unknown work: ${work}`);
  }
}

module.exports = { redis, mongoUrl, queueName, jobOptions, schema, Breaker, envelope, deadLetterModel, deadLetter, handlerFor };
