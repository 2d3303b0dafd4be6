import { z } from 'zod';

/**
 * Zod would try to compile its parsers, which the Content-Security-Policy forbids and reports. It decides when a schema
 * is made, so this module is imported before any that makes one.
 */
z.config({ jitless: true });
