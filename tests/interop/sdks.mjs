// The Node libraries of three mail APIs against the relay's doors. Prints one line for each thing that was as expected.
import assert from 'node:assert/strict';
import { Resend } from 'resend';
import postmark from 'postmark';
import sgMail from '@sendgrid/mail';

const url = process.env.SDK_URL;
const token = process.env.SDK_TOKEN;
const from = 'Shop, Inc. <otp@app.test>';
const to = 'alice@example.test';
const gone = 'gone@example.test';
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const file = Buffer.from('a,b\n1,2\n');
const ok = (what) => console.log(`ok ${what}`);

{
  const name = 'resend of npm';
  const client = new Resend(token, { baseUrl: `${url}/` });
  const mail = (subject) => ({
    from, to: [to], cc: 'carl@example.test', replyTo: 'help@app.test', subject, text: 't', html: '<b>h</b>',
    headers: { 'X-Ref': '7' }, tags: [{ name: 'kind', value: 'signup' }],
    attachments: [{ filename: 'a.csv', content: file }, { filename: 'l.png', content: 'iVBORw==', contentId: 'logo' }],
  });
  const sent = await client.emails.send(mail(`${name}, once`));
  assert.equal(sent.error, null, JSON.stringify(sent.error));
  assert.match(sent.data.id, uuid);
  const shown = await client.emails.get(sent.data.id);
  assert.equal(shown.data.object, 'email');
  assert.ok(['queued', 'sent', 'delivered'].includes(shown.data.last_event), shown.data.last_event);
  ok(`${name} sends, and reads how it stands`);
  const options = { idempotencyKey: 'node-1' };
  const first = await client.emails.send(mail(`${name}, repeated`), options);
  const again = await client.emails.send(mail(`${name}, repeated`), options);
  assert.equal(first.data.id, again.data.id);
  const other = await client.emails.send(mail(`${name}, other`), options);
  assert.deepEqual([other.error.name, other.error.statusCode], ['invalid_idempotent_request', 409]);
  ok(`${name} repeats without a second mail`);
  const suppressed = await client.emails.send({ ...mail('x'), to: gone });
  assert.deepEqual([suppressed.error.name, suppressed.error.statusCode], ['validation_error', 422]);
  const stranger = await client.emails.send({ ...mail('x'), from: 'otp@other.test' });
  assert.deepEqual([stranger.error.name, stranger.error.statusCode], ['validation_error', 403]);
  const missing = await client.emails.send({ ...mail('x'), subject: undefined });
  assert.equal(missing.error.name, 'missing_required_field');
  const wrong = await new Resend('re_wrong', { baseUrl: url }).emails.send(mail('x'));
  assert.deepEqual([wrong.error.name, wrong.error.statusCode], ['invalid_api_key', 403]);
  const unknown = await client.emails.get('00000000-0000-0000-0000-000000000000');
  assert.equal(unknown.error.name, 'not_found');
  const later = await client.emails.send({ ...mail('x'), scheduledAt: 'in 1 min' });
  assert.match(later.error.message, /scheduled_at/);
  ok(`${name} tells its errors by name`);
  const batch = [mail(`${name}, batch`), mail(`${name}, batch`)].map(({ attachments, ...rest }) => rest);
  const taken = await client.batch.send(batch);
  assert.equal(taken.data.data.length, 2);
  const strict = await client.batch.send([batch[0], { ...batch[1], to: gone }]);
  assert.equal(strict.error.name, 'validation_error');
  const permissive = await client.batch.send([batch[0], { ...batch[1], to: gone }], { batchValidation: 'permissive' });
  assert.equal(permissive.data.data.length, 1);
  assert.equal(permissive.data.errors[0].index, 1);
  const cancelled = await client.emails.cancel(sent.data.id);
  assert.ok(cancelled.error === null || cancelled.error.statusCode === 422);
  ok(`${name} sends batches, strict and permissive`);
}

{
  const name = 'postmark of npm';
  const options = { requestHost: new URL(url).host, useHttps: false };
  const client = new postmark.ServerClient(token, options);
  const mail = (subject) => ({
    From: from, To: to, Cc: 'Carl <carl@example.test>', Subject: subject, TextBody: 't', HtmlBody: '<b>h</b>', Tag: 'sign up',
    Metadata: { a: 'b' }, MessageStream: 'outbound',
    Attachments: [new postmark.Models.Attachment('l.png', 'iVBORw==', 'image/png', 'cid:logo')],
  });
  const sent = await client.sendEmail(mail(`${name}, once`));
  assert.match(sent.MessageID, uuid);
  assert.equal(sent.ErrorCode, 0);
  ok(`${name} sends`);
  const keyed = { ...mail(`${name}, repeated`), Headers: [{ Name: 'X-OTP-Idempotency-Key', Value: 'node-2' }] };
  assert.equal((await client.sendEmail(keyed)).MessageID, (await client.sendEmail(keyed)).MessageID);
  ok(`${name} repeats without a second mail`);
  const refused = (change, of = client) => of.sendEmail({ ...mail('x'), ...change }).then(() => null, (error) => error);
  const suppressed = await refused({ To: gone });
  assert.deepEqual([suppressed.name, suppressed.code, suppressed.recipients], ['InactiveRecipientsError', 406, [gone]]);
  const stranger = await refused({ From: 'otp@other.test' });
  assert.deepEqual([stranger.code, stranger.statusCode], [400, 422]);
  const bad = await refused({ To: 'nobody' });
  assert.deepEqual([bad.name, bad.code], ['InvalidEmailRequestError', 300]);
  const wrong = await refused({}, new postmark.ServerClient('wrong', options));
  assert.deepEqual([wrong.name, wrong.code], ['InvalidAPIKeyError', 10]);
  ok(`${name} tells its errors by class`);
  const batch = await client.sendEmailBatch([mail(`${name}, batch`), { ...mail('x'), To: gone }]);
  assert.deepEqual(batch.map((one) => one.ErrorCode), [0, 406]);
  ok(`${name} sends batches`);
}

{
  const name = '@sendgrid/mail';
  sgMail.setApiKey(token);
  sgMail.client.setDefaultRequest('baseUrl', url);
  const mail = (subject) => ({
    from, to, cc: 'carl@example.test', replyTo: 'help@app.test', subject, text: 't', html: '<b>h</b>', categories: ['signup'],
    attachments: [{ filename: 'a.csv', content: file.toString('base64'), type: 'text/csv', disposition: 'attachment' }],
  });
  const [sent] = await sgMail.send(mail(`${name}, once`));
  assert.equal(sent.statusCode, 202);
  assert.match(sent.headers['x-message-id'], uuid);
  ok(`${name} sends`);
  const keyed = { ...mail(`${name}, repeated`), headers: { 'X-OTP-Idempotency-Key': 'node-3' } };
  const ids = [await sgMail.send(keyed), await sgMail.send(keyed)].map(([answer]) => answer.headers['x-message-id']);
  assert.equal(ids[0], ids[1]);
  ok(`${name} repeats without a second mail`);
  const refused = (change) => sgMail.send({ ...mail('x'), ...change }).then(() => null, (error) => error);
  for (const [change, code] of [
    [{ to: gone }, 400], [{ from: 'otp@other.test' }, 403], [{ sendAt: 1795255200 }, 400], [{ templateId: 'd-1' }, 400],
    [{ mailSettings: { sandboxMode: { enable: true } } }, 400],
  ]) {
    const error = await refused(change);
    assert.equal(error.code, code, JSON.stringify(error));
    assert.ok(error.response.body.errors[0].message);
  }
  ok(`${name} tells its errors by status`);
  const [several] = await sgMail.sendMultiple({ ...mail(`${name}, several`), to: [to, 'bob@example.test'] });
  assert.equal(several.headers['x-message-id'].split(',').length, 2);
  ok(`${name} sends a message for each personalization`);
  sgMail.setApiKey('SG.wrong');
  sgMail.client.setDefaultRequest('baseUrl', url);
  assert.equal((await refused({})).code, 401);
  ok(`${name} is refused with a wrong key`);
}
