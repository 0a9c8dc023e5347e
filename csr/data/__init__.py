"""Label tables, boxes, images, the decoded-image cache, batches and transforms; no losses."""
