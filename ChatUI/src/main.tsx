import './zod-without-eval.ts';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { createApiClient } from './api/api-client.ts';
import { App } from './app.tsx';
import './styles.css';

const root = document.querySelector('#root');
if (root === null) throw new Error('index.html has no #root');
createRoot(root).render(
  <StrictMode>
    <App
      api={createApiClient((...request) => fetch(...request))}
      WebSocket={WebSocket}
      storage={localStorage}
    />
  </StrictMode>,
);
