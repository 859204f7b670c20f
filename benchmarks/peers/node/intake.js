// HTTP intake. usage: node intake.js express|fastify bull|bullmq PORT
'use strict';
const { redis, queueName, jobOptions, schema, Breaker, envelope } = require('./shared');

const [framework, library, port] = process.argv.slice(2);
const breaker = new Breaker();

function opened() {
  if (library === 'bull') {
    const Bull = require('bull');
    const queue = new Bull(queueName, { redis });
    return (message) => queue.add(message, { ...jobOptions, jobId: message.messageId });
  }
  const { Queue } = require('bullmq');
  const queue = new Queue(queueName, { connection: redis });
  return (message) => queue.add('message', message, { ...jobOptions, jobId: message.messageId });
}

const enqueue = opened();
const accepted = (message) => ({ success: true, data: { messageId: message.messageId, status: 'queued' } });
const refused = { success: false, error: 'circuit open' };

function express() {
  const server = require('express')();
  server.use(require('express').json({ limit: '256kb' }));
  server.post('/api/messages', (request, response, next) => {
    const { error, value } = schema.validate(request.body, { abortEarly: false });
    if (error) { response.status(400).json({ success: false, error: error.details.map((each) => each.message) }); return; }
    request.accepted = value;
    next();
  }, (request, response, next) => {
    if (breaker.allows()) next(); else response.status(503).json(refused);
  }, async (request, response, next) => {
    const message = envelope(request.accepted);
    try { await enqueue(message); response.status(202).json(accepted(message)); } catch (error) { next(error); }
  });
  server.listen(Number(port), '127.0.0.1');
}

function fastify() {
  const server = require('fastify')({ logger: false });
  const text = { type: 'string', maxLength: 100 };
  const metadata = {
    type: 'object',
    properties: {
      source: { ...text, default: 'api' }, priority: { type: 'string', enum: ['low', 'normal', 'high'], default: 'normal' },
      tags: { type: 'array', maxItems: 20, items: { type: 'string' } },
    },
  };
  const body = {
    type: 'object', required: ['payload'], additionalProperties: false,
    properties: { id: text, type: text, payload: { type: 'object' }, metadata },
  };
  server.post('/api/messages', { schema: { body } }, async (request, reply) => {
    if (!breaker.allows()) return reply.code(503).send(refused);
    const message = envelope(request.body);
    await enqueue(message);
    return reply.code(202).send(accepted(message));
  });
  server.listen({ port: Number(port), host: '127.0.0.1' });
}

({ express, fastify })[framework]();
