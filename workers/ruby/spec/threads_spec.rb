# frozen_string_literal: true

# The threads that handlers run on.
RSpec.describe TaskerCore::Worker::Threads do
  let(:done) { Thread::Queue.new }
  let(:gate) { Thread::Queue.new }
  let(:most) { 8 }
  let(:threads) { described_class.new(most) { done << :round } }

  after do
    gate.close
    threads.close
    eventually("all end") { threads.count.zero? }
  end

  # What is done next; a test that hangs fails.
  def next_done
    Timeout.timeout(PATIENCE) { done.pop }
  end

  context "where there may be many" do
    let(:most) { 1_000 }

    it "do quick work one after another on few threads, and make the round once for all of it" do
      500.times do
        threads.run do
          done << Thread.current
          threads.round
        end
      end
      said = Array.new(501) { next_done }
      rounds, by = said.partition { |each| each == :round }
      expect(by.size + rounds.size).to eq(501)
      expect([rounds.size, by.uniq.size]).to all(be < 50)
    end

    it "are made up for where work ends its thread, or somebody else does" do
      100.times { |at| threads.run { done << at && Thread.exit } }
      expect(Array.new(100) { next_done }).to match_array((0...100).to_a)
      20.times do |at|
        threads.run { done << at }
        Thread.list.each { |thread| thread.kill if thread.name == "tasker-handler" && rand < 0.5 }
      end
      expect(Array.new(20) { next_done }).to match_array((0...20).to_a), "it is held back while they work"
      threads.round
      expect(next_done).to eq(:round)
    end
  end

  it "let no work wait behind work that waits" do
    7.times { |at| threads.run { done << at && gate.pop } }
    expect(Array.new(7) { next_done }).to match_array((0...7).to_a)
    threads.round
    expect(next_done).to eq(:round), "the last thread makes it"
    threads.run { done << :quick }
    expect(next_done).to eq(:quick)
  end

  it "let no work wait behind work that computes" do
    stop = false
    2.times { threads.run { nil until stop } }
    threads.run { done << :other }
    expect(next_done).to eq(:other)
    stop = true
  end

  it "refuse work where all that there may be are busy" do
    8.times { expect(threads.run { done << (gate.pop || 1) }).to be(true) }
    expect(threads.run { done << :too_much }).to be(false)
    gate.close
    expect(Array.new(8) { next_done }).to eq([1] * 8)
    eventually("there is room again") { threads.run { done << :room } }
    expect(next_done).to eq(:room)
  end

  it "end when nothing needs them" do
    8.times { threads.run { done << gate.pop } }
    eventually("all work") { gate.num_waiting == 8 }
    expect(threads.count).to eq(8)
    gate.close
    8.times { next_done }
    eventually("the idle ones end") { threads.count <= 1 }
    threads.run { done << :anew }
    expect(next_done).to eq(:anew)
  end

  context "where some are kept" do
    let(:threads) { described_class.new(most, keep: 3) { done << :round } }

    it "end but for those" do
      8.times { threads.run { done << gate.pop } }
      eventually("all work") { gate.num_waiting == 8 }
      gate.close
      8.times { next_done }
      eventually("the idle ones end") { threads.count == 3 }
      sleep 1.5
      expect(threads.count).to eq(3)
    end
  end
end
