// Auth.js: a magic link by its Nodemailer provider, with the requests that a browser makes.
import { Auth } from '@auth/core';
import Nodemailer from '@auth/core/providers/nodemailer';

const { RELAY_HOST: host, RELAY_PORT: port, RELAY_USER: user, RELAY_PASSWORD: pass, SENDER: from, RECIPIENT: email } = process.env;
const config = {
  secret: 'x'.repeat(40),
  trustHost: true,
  basePath: '/auth',
  providers: [Nodemailer({ server: { host, port: +port, requireTLS: true, auth: { user, pass } }, from })],
  adapter: {
    getUserByEmail: async () => null,
    getUserByAccount: async () => null,
    createVerificationToken: async (token) => token,
    useVerificationToken: async () => null,
    createUser: async (user) => ({ ...user, id: '1' }),
    getUser: async () => null,
    updateUser: async (user) => user,
    linkAccount: async () => undefined,
    createSession: async (session) => session,
    getSessionAndUser: async () => null,
    updateSession: async (session) => session,
    deleteSession: async () => undefined,
  },
};
const site = 'http://localhost:3000/auth';
const first = await Auth(new Request(`${site}/csrf`), config);
const { csrfToken } = await first.json();
const cookie = first.headers.getSetCookie().map((line) => line.split(';')[0]).join('; ');
const body = new URLSearchParams({ csrfToken, email });
const answer = await Auth(new Request(`${site}/signin/nodemailer`, { method: 'POST', headers: { cookie }, body }), config);
const location = answer.headers.get('location') ?? '';
if (!location.includes('verify-request')) throw new Error(`${answer.status} ${location}`);
