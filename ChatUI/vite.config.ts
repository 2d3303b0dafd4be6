import tailwindcss from '@tailwindcss/vite';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const server = 'http://127.0.0.1:8000';

export default defineConfig({
  plugins: [react(), tailwindcss()],
  server: {
    port: 5173,
    strictPort: true,
    proxy: {
      '/api': server,
      '/ws': { target: server, ws: true },
      '/health': server,
      '/metrics': server,
      '/openapi.json': server,
      '/docs': server,
    },
  },
  build: {
    // Data addresses would need their own permission in the Content-Security-Policy.
    assetsInlineLimit: 0,
  },
});
