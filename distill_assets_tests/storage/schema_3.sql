-- The tables as schema 3 made them, copied from that version's DDL; test_upgrade.py opens a file of them.
CREATE TABLE corpus (batch VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, title VARCHAR NOT NULL, text VARCHAR NOT NULL, content_hash VARCHAR NOT NULL);
CREATE TABLE queries (batch VARCHAR NOT NULL, query_id VARCHAR NOT NULL, text VARCHAR NOT NULL, split VARCHAR NOT NULL);
CREATE TABLE qrels (batch VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, relevance INTEGER NOT NULL);
CREATE TABLE hard_negatives (batch VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, rank INTEGER NOT NULL, source VARCHAR NOT NULL, bm25_rank INTEGER, dense_rank INTEGER, rrf_score DOUBLE NOT NULL);
CREATE TABLE teacher_scores (batch VARCHAR NOT NULL, query_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, label INTEGER NOT NULL, teacher_logit FLOAT NOT NULL);
CREATE TABLE checkpoints (kind VARCHAR NOT NULL, name VARCHAR NOT NULL, path VARCHAR NOT NULL, model_fingerprint VARCHAR NOT NULL, manifest_json VARCHAR NOT NULL);
CREATE TABLE eval_metrics (recipe VARCHAR NOT NULL, system VARCHAR NOT NULL, split VARCHAR NOT NULL, query_id VARCHAR NOT NULL, ndcg_at_10 DOUBLE NOT NULL, mrr_at_10 DOUBLE NOT NULL, recall_at_100 DOUBLE NOT NULL, map DOUBLE NOT NULL);
CREATE TABLE leaderboard (split VARCHAR NOT NULL, system VARCHAR NOT NULL, ndcg_at_10 DOUBLE NOT NULL, ndcg_at_10_low DOUBLE NOT NULL, ndcg_at_10_high DOUBLE NOT NULL, mrr_at_10 DOUBLE NOT NULL, recall_at_100 DOUBLE NOT NULL, map DOUBLE NOT NULL, gap_closed DOUBLE, query_ms_p50 DOUBLE, query_ms_p95 DOUBLE, documents_per_s DOUBLE, model_mb DOUBLE, num_queries INTEGER NOT NULL, p_vs_hard_labels DOUBLE, p_vs_untouched DOUBLE, detectable_vs_hard_labels DOUBLE, detectable_vs_untouched DOUBLE);
CREATE TABLE query_results (split VARCHAR NOT NULL, system VARCHAR NOT NULL, query_id VARCHAR NOT NULL, ndcg_at_10 DOUBLE NOT NULL, relevant_rank INTEGER, top_doc_ids VARCHAR NOT NULL, kendall_tau DOUBLE, overlap_at_10 DOUBLE);
CREATE TABLE teacher_fitness (system VARCHAR NOT NULL, query_id VARCHAR NOT NULL, ndcg_at_10 DOUBLE NOT NULL);
CREATE TABLE scoring_costs (scored_at TIMESTAMP NOT NULL, asset VARCHAR NOT NULL, partition_key VARCHAR NOT NULL, teacher_fingerprint VARCHAR NOT NULL, num_pairs BIGINT NOT NULL, seconds DOUBLE NOT NULL);
CREATE TABLE champion_history (decided_at TIMESTAMP NOT NULL, recipe VARCHAR NOT NULL, model_fingerprint VARCHAR NOT NULL, checkpoint_path VARCHAR NOT NULL, verdict VARCHAR NOT NULL, reason VARCHAR NOT NULL, dev_ndcg_at_10 DOUBLE NOT NULL, p_value DOUBLE);
CREATE TABLE pair_scores (teacher_fingerprint VARCHAR NOT NULL, query_hash VARCHAR NOT NULL, doc_hash VARCHAR NOT NULL, teacher_logit FLOAT NOT NULL);
CREATE TABLE quarantine (batch VARCHAR NOT NULL, source_fingerprint VARCHAR NOT NULL, reason VARCHAR NOT NULL, quarantined_at TIMESTAMP NOT NULL);
CREATE TABLE slices (table_name VARCHAR NOT NULL, slice_key VARCHAR NOT NULL, num_rows BIGINT NOT NULL, input_fingerprint VARCHAR NOT NULL, data_version VARCHAR NOT NULL, written_at TIMESTAMP NOT NULL, PRIMARY KEY (table_name, slice_key));
CREATE TABLE schema_info (version INTEGER NOT NULL);
INSERT INTO schema_info VALUES (3);
INSERT INTO pair_scores VALUES ('teacher', 'q1', 'd1', 1.5), ('teacher', 'q1', 'd2', -2.0), ('other', 'q1', 'd1', 9.0);
INSERT INTO query_results VALUES ('test', 'bm25', 'q1', 0.5, 3, '["d1"]', NULL, NULL), ('test', 'student', 'q1', 1.0, 1, '["d2"]', 0.8, 0.9);
INSERT INTO leaderboard VALUES ('test', 'bm25', 0.5, 0.4, 0.6, 0.5, 0.5, 0.5, NULL, 1.0, 2.0, NULL, NULL, 1, NULL, NULL, NULL, NULL);
INSERT INTO champion_history VALUES
    ('2026-01-02 00:00:00', 'second', 'f2', 'p2', 'promoted', 'better', 0.7, 0.01),
    ('2026-01-01 00:00:00', 'first', 'f1', 'p1', 'promoted', 'the first', 0.6, NULL);
INSERT INTO slices VALUES
    ('query_results', '', 2, 'old inputs', 'v1', '2026-01-02 00:00:00'), ('leaderboard', '', 1, 'old inputs', 'v2', '2026-01-02 00:00:00');
