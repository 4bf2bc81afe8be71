"""What settings are called elsewhere: in TRL, verl and PEFT."""

from collections.abc import Collection, Mapping

OTHER_NAMES: Mapping[str, str] = {
    "policy.base_model": "model_name_or_path model_path",
    "policy.lora_rank": "lora_r r",
    "policy.target_modules": "lora_target_modules",
    "policy.dtype": "torch_dtype bf16 fp16",
    "policy.quantization": "load_in_4bit",
    "policy.gradient_checkpointing": "gradient_checkpointing enable_gradient_checkpointing",
    "data.source": "dataset_name train_files",
    "data.evaluation_source": "val_files",
    "server.url": "vllm_server_base_url vllm_server_host",
    "serve.gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "serve.max_model_len": "max_prompt_length vllm_max_model_length",
    "rollout.questions_per_step": "train_batch_size generation_batch_size",
    "rollout.samples_per_arm": "num_generations rollout_n n",
    "samples_per_arm": "num_generations rollout_n n",
    "rollout.max_tokens": "max_completion_length max_new_tokens max_response_length response_length",
    "max_tokens": "max_completion_length max_new_tokens max_response_length response_length",
    "rollout.arms": "temperature top_p system_prompt",
    "arms": "temperature top_p system_prompt",
    "reward.functions": "reward_funcs",
    "reward.weights": "reward_weights",
    "ppo.learning_rate": "lr learning_rate",
    "sft.learning_rate": "lr learning_rate",
    "ppo.critic_learning_rate": "critic_lr",
    "ppo.learning_rate_schedule": "lr_scheduler_type",
    "ppo.learning_rate_warmup_steps": "warmup_steps warmup_ratio lr_warmup_steps",
    "ppo.kl_coef": "beta kl_coef init_kl_coef kl_loss_coef",
    "ppo.clip_low": "epsilon cliprange clip_range clip_ratio clip_ratio_low",
    "ppo.clip_high": "epsilon_high clip_ratio_high",
    "ppo.dual_clip": "delta clip_ratio_c",
    "ppo.value_clip": "cliprange_value",
    "ppo.max_importance_weight": "vllm_importance_sampling_mode vllm_importance_sampling_clip_max",
    "ppo.truncation": "mask_truncated_completions",
    "ppo.gae_lambda": "lam",
    "ppo.advantage": "adv_estimator scale_rewards",
    "ppo.loss_reduction": "loss_type loss_agg_mode",
    "ppo.max_grad_norm": "grad_clip",
    "ppo.num_epochs": "num_ppo_epochs ppo_epochs num_iterations",
    "ppo.questions_per_mini_batch": "ppo_mini_batch_size num_mini_batches steps_per_generation "
    "gradient_accumulation_steps",
    "ppo.token_budget": "per_device_train_batch_size ppo_micro_batch_size_per_gpu ppo_max_token_len_per_gpu",
    "sft.batch_size": "per_device_train_batch_size gradient_accumulation_steps train_batch_size",
    "run.num_steps": "max_steps num_train_epochs total_epochs total_training_steps total_episodes",
    "sft.num_epochs": "num_train_epochs total_epochs",
    "run.folder": "output_dir default_local_dir",
    "output": "output_dir default_local_dir",
    "to": "output output_dir",
    "run.checkpoint_every": "save_steps save_freq",
    "sft.checkpoint_every": "save_steps save_freq",
    "run.num_checkpoints": "save_total_limit",
    "run.evaluate_every": "eval_steps test_freq",
    "sft.evaluate_every": "eval_steps test_freq",
    "run.trackers": "report_to logger",
}
"""Our keys, and other libraries' names for them; a message names the first of these keys that a program has."""
_NOTES: Mapping[str, str] = {
    "arms": " (each arm has a temperature, a top_p and a system prompt of its own)",
    "samples_per_arm": " (a group is so many completions of each arm)",
    "questions_per_mini_batch": " (the questions of an optimizer step; ppo.token_budget bounds what is in memory)",
    "token_budget": " (tokens in memory; the questions of an optimizer step are ppo.questions_per_mini_batch)",
    "learning_rate_warmup_steps": " (a number of steps, not a share of them)",
}
"""Remarks on what differs here, by the last part of our key."""


def key_of_other_name(key: str, keys: Collection[str]) -> str:
    """Our key for another library's name; empty if the program has no such key."""
    name = key.rpartition(".")[2]
    return next(
        (own for own, words in OTHER_NAMES.items() if own in keys and name in words.split()), ""
    )


def other_name_suggestion(key: str, keys: Collection[str]) -> str:
    """``; did you mean …?`` with our key for another library's name; empty if the program has no such key."""
    ours = key_of_other_name(key, keys)
    return f"; did you mean {ours}{_NOTES.get(ours.rpartition('.')[2], '')}?" if ours else ""
