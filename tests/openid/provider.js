// A certified OpenID provider on loopback, with its own pages for sign-in and consent: node provider.js PORT CLIENTS.JSON
// Whoever signs in as X is X, with the address X@clinic.example, verified unless X begins with "new".
import { readFileSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const [port, clients] = process.argv.slice(2);
const provider = new Provider(`http://localhost:${port}`, {
  clients: JSON.parse(readFileSync(clients, 'utf8')),
  claims: { email: ['email', 'email_verified'], profile: ['name', 'groups'] },
  pkce: { required: () => true },
  findAccount: (context, id) => ({
    accountId: id,
    claims: async () => ({
      sub: id,
      name: `${id} of the clinic`,
      email: `${id}@clinic.example`,
      email_verified: !id.startsWith('new'),
      groups: id === 'cy' ? ['data protection'] : [],
    }),
  }),
});
provider.listen(Number(port), '127.0.0.1', () => console.log('provider ready'));
