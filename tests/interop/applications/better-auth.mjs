// better-auth: a code to sign in with, by its plugin emailOTP and nodemailer.
import { betterAuth } from 'better-auth';
import { memoryAdapter } from 'better-auth/adapters/memory';
import { emailOTP } from 'better-auth/plugins';
import nodemailer from 'nodemailer';

const { RELAY_HOST: host, RELAY_PORT: port, RELAY_USER: user, RELAY_PASSWORD: pass, SENDER: from, RECIPIENT: email } = process.env;
const transport = nodemailer.createTransport({ host, port: +port, requireTLS: true, auth: { user, pass } });
const auth = betterAuth({
  baseURL: 'http://localhost:3000',
  secret: 'x'.repeat(40),
  database: memoryAdapter({ user: [], session: [], account: [], verification: [] }),
  plugins: [
    emailOTP({
      async sendVerificationOTP({ email, otp, type }) {
        await transport.sendMail({ from, to: email, subject: `Your code to ${type}`, text: `It is ${otp}.` });
      },
    }),
  ],
});
const answer = await auth.api.sendVerificationOTP({ body: { email, type: 'sign-in' } });
if (!answer.success) throw new Error(JSON.stringify(answer));
